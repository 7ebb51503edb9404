"""What the neural baselines are trained for, one module per method: how slices of histories are drawn, and the loss.

In torch, without scikit-learn; imported when an estimator is fitted.
"""
