"""The tables of the index, one script a version."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

# PRAGMA user_version counts those applied: only ever append.
MIGRATIONS = [
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, name TEXT, method TEXT NOT NULL, model TEXT NOT NULL,
        created REAL NOT NULL,            -- seconds since 1970
        status TEXT NOT NULL DEFAULT 'created', reason TEXT NOT NULL DEFAULT '',
        spec_yaml TEXT NOT NULL, metrics TEXT NOT NULL DEFAULT '{}', package_versions TEXT NOT NULL,
        owner TEXT                        -- the process at work on it, if any
    );
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs,
        n INTEGER NOT NULL,               -- 1, 2, 3, ... within the run
        at REAL NOT NULL, kind TEXT NOT NULL, fields TEXT NOT NULL,
        UNIQUE (run, n)
    );
    CREATE TABLE history (
        run TEXT NOT NULL REFERENCES runs, step INTEGER NOT NULL,
        epoch REAL, loss REAL, eval_loss REAL, learning_rate REAL, grad_norm REAL,
        tokens_per_second REAL, memory_mb REAL, elapsed_s REAL,
        PRIMARY KEY (run, step)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE runs ADD COLUMN removed REAL;   -- its folder is gone, but what came of it still names it

    CREATE TABLE versions (
        name TEXT NOT NULL, number INTEGER NOT NULL, run TEXT NOT NULL UNIQUE REFERENCES runs,
        PRIMARY KEY (name, number)
    ) WITHOUT ROWID;
    CREATE TABLE aliases (                -- all that an alias has held and may go back to; the highest n counts
        name TEXT NOT NULL, alias TEXT NOT NULL, n INTEGER NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (name, alias, n), FOREIGN KEY (name, version) REFERENCES versions (name, number)
    ) WITHOUT ROWID;
    CREATE VIEW held AS SELECT name, alias, version, max(n) AS n FROM aliases GROUP BY name, alias;

    CREATE TABLE lineage (
        run TEXT PRIMARY KEY REFERENCES runs, base TEXT, base_hash TEXT, data TEXT, data_fingerprint TEXT,
        spec_hash TEXT NOT NULL, package_versions TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE parents (
        run TEXT NOT NULL REFERENCES runs, parent TEXT NOT NULL REFERENCES runs, PRIMARY KEY (run, parent)
    ) WITHOUT ROWID;
    CREATE TABLE files (                  -- of the adapter, as they were when the run ended
        run TEXT NOT NULL REFERENCES runs, path TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (run, path)
    ) WITHOUT ROWID;
    CREATE TABLE evaluations (
        run TEXT NOT NULL REFERENCES runs, suite TEXT NOT NULL, measure TEXT NOT NULL,
        value REAL, low REAL, high REAL, detail TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (run, suite, measure)
    ) WITHOUT ROWID;

    CREATE TABLE audit (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL,
        run TEXT, name TEXT, version INTEGER, alias TEXT,
        before INTEGER,                   -- the version that the alias held until then
        why TEXT NOT NULL,
        forced TEXT                       -- what spoke against it
    );
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE (ABORT, 'the audit log is only ever appended to'); END;
    CREATE TRIGGER audit_is_not_shortened BEFORE DELETE ON audit
        BEGIN SELECT RAISE (ABORT, 'the audit log is only ever appended to'); END;
    CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
        BEGIN SELECT RAISE (ABORT, 'the audit log is only ever appended to'); END;

    INSERT INTO versions SELECT name, row_number() OVER (PARTITION BY name ORDER BY rowid), id
        FROM runs WHERE status = 'finished' AND name IS NOT NULL;
    INSERT INTO lineage SELECT id, json_extract(metrics, '$.base'), NULL, json_extract(metrics, '$.data'),
        json_extract(metrics, '$.fingerprint'), sha256(spec_yaml), package_versions
        FROM runs WHERE status IN ('finished', 'stopped', 'failed');
    """,
    """
    ALTER TABLE runs ADD COLUMN facts TEXT NOT NULL DEFAULT '{}';   -- what it needs to be opened again

    -- Until then they lay among the metrics. A patch of {} leaves out what is null, and a boolean stays one.
    UPDATE runs SET facts = json_patch('{}', json_object(
        'base', json_extract(metrics, '$.base'), 'base_hash', json_extract(metrics, '$.base_hash'),
        'data', json_extract(metrics, '$.data'), 'fingerprint', json_extract(metrics, '$.fingerprint'),
        'layout', json_extract(metrics, '$.layout'), 'dtype', json_extract(metrics, '$.dtype'),
        'device', json_extract(metrics, '$.device'), 'task', json_object(
            'classes', json_extract(metrics, '$.classes'),
            'multi_label', json(CASE json_type(metrics, '$.multi_label') WHEN 'true' THEN 'true'
                WHEN 'false' THEN 'false' END),
            'max_tokens', json_extract(metrics, '$.max_tokens'), 'pooling', json_extract(metrics, '$.pooling'))));
    UPDATE runs SET metrics = json_remove(metrics, '$.base', '$.base_hash', '$.data', '$.fingerprint', '$.layout',
        '$.dtype', '$.device', '$.classes', '$.multi_label', '$.max_tokens', '$.pooling');
    """,
    """
    CREATE TABLE tags (run TEXT NOT NULL REFERENCES runs, tag TEXT NOT NULL, PRIMARY KEY (run, tag)) WITHOUT ROWID;
    ALTER TABLE history ADD COLUMN token_accuracy REAL;
    """,
    """
    ALTER TABLE history ADD COLUMN host_memory_mb REAL;   -- where memory_mb is a GPU's
    """,
    """
    CREATE TABLE votes (                  -- they are the person's, and stay where a run that answered is removed
        id TEXT PRIMARY KEY,              -- a hash of what was voted on
        at REAL NOT NULL, prompt TEXT NOT NULL, answers TEXT NOT NULL, best TEXT
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE shares (                 -- a second version that an alias stands for, for a share of the requests
        name TEXT NOT NULL, alias TEXT NOT NULL, version INTEGER NOT NULL, share REAL NOT NULL,
        PRIMARY KEY (name, alias), FOREIGN KEY (name, version) REFERENCES versions (name, number)
    ) WITHOUT ROWID;
    ALTER TABLE audit ADD COLUMN share REAL;   -- that began or ended
    """,
    """
    CREATE TABLE sweeps (
        id TEXT PRIMARY KEY, name TEXT, created REAL NOT NULL,
        status TEXT NOT NULL DEFAULT 'running', reason TEXT NOT NULL DEFAULT '',
        spec_yaml TEXT NOT NULL, notes TEXT NOT NULL DEFAULT '[]',
        forecast TEXT NOT NULL DEFAULT '{}',   -- of the whole, told before the first trial
        seconds REAL NOT NULL DEFAULT 0,  -- that it has worked
        owner TEXT                        -- the process at work on it, if any
    );
    CREATE TABLE trials (
        sweep TEXT NOT NULL REFERENCES sweeps, number INTEGER NOT NULL,   -- 1, 2, 3, ... within the sweep
        run TEXT REFERENCES runs,         -- of which the sweep is the parent
        vals TEXT NOT NULL,               -- of the fields that are varied
        state TEXT NOT NULL DEFAULT 'running', reason TEXT NOT NULL DEFAULT '',
        began REAL NOT NULL, seconds REAL NOT NULL DEFAULT 0,
        PRIMARY KEY (sweep, number)
    ) WITHOUT ROWID;
    CREATE INDEX trial_of_run ON trials (run);
    """,
    """
    ALTER TABLE audit ADD COLUMN named TEXT;   -- what the person called themselves
    ALTER TABLE audit ADD COLUMN rule TEXT;   -- of a policy, as JSON
    ALTER TABLE audit ADD COLUMN hash TEXT;   -- of the line and of the hash before it
    DROP TRIGGER audit_is_not_changed;
    WITH RECURSIVE lines AS (SELECT *, row_number() OVER (ORDER BY id) AS place FROM audit),
        chain (place, id, hash) AS (
            SELECT place, id, line_hash('', at, who, action, run, name, version, alias, before, why, forced, share,
                named, rule) FROM lines WHERE place = 1
            UNION ALL
            SELECT lines.place, lines.id, line_hash(chain.hash, at, who, action, run, name, version, alias, before, why,
                forced, share, named, rule) FROM lines JOIN chain ON lines.place = chain.place + 1
        )
        UPDATE audit SET hash = chain.hash FROM chain WHERE chain.id = audit.id;
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE (ABORT, 'the audit log is only ever appended to'); END;
    CREATE TABLE policies (alias TEXT PRIMARY KEY, rule TEXT NOT NULL) WITHOUT ROWID;
    """,
]


def statements(script: str) -> Iterator[str]:
    """Take a script apart, because ``executescript`` would commit first."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):  # a trigger holds semicolons of its own
            yield statement
            statement = ""
