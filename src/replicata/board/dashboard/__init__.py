"""The dashboard: what runs and verdicts say, in a browser.

    replicata dashboard [--port N]         a server on 127.0.0.1 that follows runs while they go
    replicata report --html DIR            the same pages as files

:mod:`.runs` reads one run's directory, :mod:`.index` keeps all of them in SQLite, :mod:`.query` asks it; :mod:`.papers`
and :mod:`.sweeps` put studies and searches together, :mod:`.charts` and :mod:`.prose` turn numbers and docstrings into
markup, and :mod:`.pages` makes every page of them, for the server (:mod:`.app`) and for files (:mod:`.site`) alike.
Records, configs and results are read; nothing is written but the index, which is a cache, and no method is imported.
"""
