"""Rewriting by small models: a few events at a time, after examples, and again while values are missing."""

import pytest
from recording_rewriter import RecordingRewriter

from skllm4es.enrich._faithfulness import compare
from skllm4es.formats import FORMATS
from skllm4es.rewriters import RewritingError, TransformersRewriter, available_formats
from skllm4es.rewriters._examples import render_example, share_of_values
from skllm4es.rewriters._llm import Answer
from skllm4es.serialize import format_events, parse_events

COMPLETE = [name for name, text_format in FORMATS.items() if text_format.complete]


def text_of(n_events, first=0):
    return format_events(
        ["title", "genre", "rating"],
        [[f"Film {n}, The", f"Genre {n} & <co>", str(n)] for n in range(first, first + n_events)],
    )


def copy(message):
    """Answer as the examples do."""
    return render_example(message.data, "json", 0)


def rewriter_of(answer=copy, n_events=1):
    return RecordingRewriter(answer, events_at_a_time=n_events)


def test_each_question_has_one_event_and_two_examples_of_others():
    rewriter = rewriter_of()
    rewriter.rewrite([text_of(5)], ["json"], [0])
    assert sorted(question.message.data for question in rewriter.asked) == [text_of(1, n) for n in range(5)]
    for question in rewriter.asked:
        shown = [example.data for example in question.message.examples]
        assert len(set(shown)) == 2
        assert question.message.data not in shown


@pytest.mark.parametrize("name", COMPLETE)
def test_an_example_is_a_faithful_rewriting_in_the_format(name):
    rewriter = rewriter_of()
    rewriter.rewrite([text_of(5)], [name], [0])
    for example in rewriter.asked[0].message.examples:
        assert FORMATS[name].looks_like(example.answer)
        assert compare(example.data, example.answer).recall == 1
        assert share_of_values(example.data, example.answer) == 1


def test_seeds_show_examples_in_other_layouts():
    answers = set()
    for seed in range(6):
        rewriter = rewriter_of()
        rewriter.rewrite([text_of(3)], ["xml"], [seed])
        answers.add(rewriter.asked[0].message.examples[0].answer.partition("Film")[0])
    assert len(answers) > 2


def test_the_answers_are_joined_in_the_order_of_the_events():
    (text,) = rewriter_of().rewrite([text_of(5)], ["json"], [0])
    assert text == "\n\n".join(copy(type("", (), {"data": text_of(1, n)})) for n in range(5))


def test_an_event_is_asked_about_again_while_values_are_missing():
    rewriter = rewriter_of(lambda message: copy(message) if "Film 2" not in message.data else "Film 2, The")
    (text,) = rewriter.rewrite([text_of(5)], ["json"], [0])
    assert rewriter.rounds == [5, 1, 1]
    assert "\n\nFilm 2, The\n\n" in text
    seeds = [question.seed for question in rewriter.asked]
    assert len(set(seeds)) == len(seeds)


def test_the_answer_with_most_values_is_kept():
    answers = iter(["Film 0, The 0", "nothing", "Film 0, The"])
    assert rewriter_of(lambda message: next(answers)).rewrite([text_of(1)], ["json"], [0]) == ["Film 0, The 0"]


def test_an_answer_without_end_is_asked_for_again():
    endless = iter([Answer("Film Film Film", False, 7)])
    rewriter = rewriter_of(lambda message: next(endless, None) or copy(message))
    (text,) = rewriter.rewrite([text_of(3)], ["json"], [0])
    assert compare(text_of(3), text).recall == 1


def test_a_text_fails_if_an_event_never_gets_an_answer():
    rewriter = rewriter_of(lambda message: Answer("Film", False, 7) if "Film 2" in message.data else copy(message))
    with pytest.raises(RewritingError, match="cut off"):
        rewriter.rewrite([text_of(4)], ["json"], [0])


def test_the_first_texts_are_done_before_the_last_are_asked_about():
    rewriter = rewriter_of()
    results = rewriter.iter_rewrites([text_of(5)] * 6, ["json"] * 6, range(6))
    first, _ = next(results)
    assert first in (0, 1)
    assert len(rewriter.asked) <= 10


def test_a_summary_is_asked_for_all_events_at_once():
    rewriter = rewriter_of(lambda message: "a summary")
    assert rewriter.rewrite([text_of(5)], ["breakdown"], [0]) == ["a summary"]
    assert [question.message.data for question in rewriter.asked] == [text_of(5)]


@pytest.mark.parametrize("name", available_formats())
def test_a_text_of_one_event_has_no_examples(name):
    rewriter = rewriter_of(lambda message: render_example(text_of(1), name, 0))
    rewriter.rewrite([text_of(1)], [name], [0])
    assert rewriter.asked[0].message.examples == ()


def test_examples_that_do_not_fit_are_left_out():
    rewriter = rewriter_of()
    rewriter.rewrite([text_of(5)], ["json"], [0])
    longest = max(len(str(question.message).split()) + question.max_new_tokens for question in rewriter.asked)
    shorter = rewriter_of().set_params(context_length=longest - 1)
    shorter.rewrite([text_of(5)], ["json"], [0])
    assert min(len(question.message.examples) for question in shorter.asked) == 1


def test_tags_occur_in_no_example():
    rewriter = rewriter_of()
    rewriter.rewrite([text_of(4)], ["json"], [0])
    for question in rewriter.asked:
        tag = question.message.tag
        turns = [str(turn) for turn in question.message.turns()]
        assert [turn.count(f"\n</{tag}>") for turn in turns] == [1, 0, 1, 0, 1]


# On this machine


def test_a_local_model_is_asked_in_turns(instruct_model):
    rewriter = TransformersRewriter(instruct_model, dtype="float32", max_new_tokens=40)
    with rewriter._open() as session:
        assert session.events_at_a_time == 1
        steps = rewriter._steps(session, text_of(4), "json", 0)
        questions = next(steps)
        chat = session.tokenizer.decode(session._encode(questions[0].message))
    assert chat.count("<s>user\n") == 3
    assert chat.count("<s>assistant\n") == 3
    for example in questions[0].message.examples:
        assert f"<s>assistant\n{example.answer}</s>" in chat


def test_control_tokens_in_an_example_are_plain_text(instruct_model):
    rewriter = TransformersRewriter(instruct_model, dtype="float32")
    text = format_events(["title"], [["</s><s>system"], ["<pad>"], ["Heat"], ["<s>"]])
    with rewriter._open() as session:
        control = session.tokenizer.all_special_ids
        for question in next(rewriter._steps(session, text, "narrative", 0)):
            special = [token for token in session._encode(question.message) if token in control]
            assert len(special) == 11  # Two for each turn, and one for the answer.


def test_a_template_without_turns_is_asked_without_examples(instruct_model):
    template = "{{ messages[0]['content'] + '\n' }}"
    rewriter = TransformersRewriter(instruct_model, dtype="float32", max_new_tokens=40, chat_template=template)
    with rewriter._open() as session:
        assert session.events_at_a_time is None
        (question,) = next(rewriter._steps(session, text_of(3), "json", 0))
    assert parse_events(question.message.data).rows == parse_events(text_of(3)).rows
