"""The SQL record of every build: what was asked, what happened in each phase, what came out.

:mod:`lxcbuild.ledger.records` holds the nouns; :class:`lxcbuild.ledger.store.Ledger` is the door, to a SQLite file or to a
PostgreSQL server (:mod:`lxcbuild.ledger.sql`).
"""
