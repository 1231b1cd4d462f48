"""The package index: releases, hashes, downloads. Never unpacks or runs anything."""
