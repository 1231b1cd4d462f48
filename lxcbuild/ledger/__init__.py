"""The SQL record of every build: what was asked, what happened in each phase, what came out.

:mod:`lxcbuild.ledger.records` holds the nouns and imports no database code; :class:`lxcbuild.ledger.store.Ledger` is the
door. SQLAlchemy takes a quarter of a second to import, so import the store where a verb needs it, not at the top.
"""
