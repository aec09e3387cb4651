"""Stands in for the program that computes embeddings: a text's vector is its lengths in letters and in words."""

import json
import sys
from pathlib import Path

if (Path(sys.argv[1]) / "broken").exists():
    sys.exit("first line\nValueError: the model is broken")
for text in json.load(sys.stdin):
    print(json.dumps([len(text), len(text.split())]), flush=True)
