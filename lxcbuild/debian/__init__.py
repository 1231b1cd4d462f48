"""Debian's rules: names, versions, archive contents, converters, the output gate."""
