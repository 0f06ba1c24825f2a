"""What is kept on disk: results, losses by row, samples; written whole or not at all."""
