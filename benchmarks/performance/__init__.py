"""Speed and memory of a checkpoint against what people use today, as ratios in one run."""
