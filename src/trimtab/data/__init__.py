"""Data in: files and Hub data sets become rows, rows are divided, rows become token ids."""
