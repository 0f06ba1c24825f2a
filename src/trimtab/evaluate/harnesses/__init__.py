"""Evaluation by the harnesses that others' numbers come from, a file each.

tasks → the harness runs a model → its samples, kept → metrics, and their change by sample
"""
