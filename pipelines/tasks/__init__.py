"""Fine-tuning: one file per task."""
