"""Networks alone, with files: training data, training, sampling."""
