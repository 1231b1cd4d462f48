"""The output gate: strict readers of packages, and the rules by which bytes of strangers are judged."""
