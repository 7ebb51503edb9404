"""A tiny instruct model for tests: whatever it is asked, it answers with a short paragraph of HTML, and ends."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from skllm4es.formats import FORMATS
from skllm4es.lm.from_scratch import train_tokenizer
from skllm4es.rewriters._prompts import compose, read_prompt
from skllm4es.serialize import format_events

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
ANSWER = r"<p>[a-z]+ events</p>"
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


def make_instruct_model(directory):
    """Train the model, which takes seconds, and save it with its tokenizer."""
    torch.manual_seed(0)
    films = [["title", "rating"], *([f"Film {n}", str(n)] for n in range(4))]
    purchases = [["date", "mcc", "amount"], *([f"2020-03-0{n}", "Fuel", f"{n}2.50"] for n in range(4))]
    questions = [
        str(compose(name, format_events(events[0], events[1:n_events])))
        for name in FORMATS
        for n_events in range(2, 5)
        for events in (films, purchases)
    ]
    questions += [read_prompt("trsr_first", n_words=150), read_prompt("hkfr_fuse", n_words=150)]
    answers = [f"<p>{number} events</p>" for number in _NUMBERS]
    tokenizer = train_tokenizer(questions + answers, 800)
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    n_steps = 500
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, n_steps)
    for step in range(n_steps):
        question, answer = questions[step % len(questions)], answers[step * 3 % len(answers)]
        asked = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        n_prompt = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        ids = tokenizer(f"{prompt}{answer}</s>", add_special_tokens=False, return_tensors="pt")["input_ids"]
        labels = ids.clone()
        labels[:, :n_prompt] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    # Servers draw only where the model's own settings say so.
    model.generation_config.do_sample = True
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
