"""The ``replicata`` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module, metadata

USAGE = """\
Replicata: the claims of machine-learning papers, put to the test.

usage: replicata <command> ...

  run            one run, or a sweep with --multirun:  replicata run experiment=adaptive/mip seed=1
  study          a paper's arms over seeds, verdicts:  replicata study adaptive/mip launcher=local
  tune           an arm's literals, before a study:    replicata tune adaptive/mip --arms default
  resume         go on with an interrupted run:        replicata resume <run directory>
  verify         repeat a run, compare bit for bit:    replicata verify <run directory>
  list           the papers:                           replicata list [family]
  show           one paper, its arms and claims:       replicata show adaptive/mip
  report         studies as tables, Markdown and CSV:  replicata report [<family>/<slug>]
  dashboard      papers, runs, sweeps in a browser:    replicata dashboard [--port N]
  check-results  which committed verdicts are stale:   replicata check-results [<family>/<slug>]
  wandb-sweep    a search space as a W&B sweep:        replicata wandb-sweep adam experiment=adaptive/mip
  new            the files of a new paper:             replicata new <family>/<slug>
  doctor         versions, devices, data, logins

`replicata run --help` lists config groups and options; --smoke runs an experiment in seconds.
Exit status: 0 done, 1 a run failed, 2 a mistake in the command, 130 interrupted."""

COMMANDS = {
    "resume": "replicata.run.commands:resume",
    "verify": "replicata.run.commands:verify",
    "list": "replicata.run.commands:list",
    "show": "replicata.run.commands:show",
    "new": "replicata.run.commands:new",
    "doctor": "replicata.run.commands:doctor",
    "study": "replicata.board.study:study_command",
    "tune": "replicata.board.tuning:tune_command",
    "wandb-sweep": "replicata.run.wandb_sweep:wandb_sweep",
    "check-results": "replicata.board.study:check_results",
    "report": "replicata.board.commands:report",
    "dashboard": "replicata.board.dashboard.command:dashboard",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Dispatch to a command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"replicata {metadata.version('replicata')}")
        return 0
    name, *rest = arguments
    if name in ("-sc", "--shell-completion"):
        from replicata.run.commands import complete

        complete(rest, ["run", *COMMANDS])
        return 0
    if name == "run":
        from replicata.run.app import main as run

        return run(rest)
    if name not in COMMANDS:
        from replicata.errors import nearest

        print(f"replicata: {name!r} is no command; {nearest(name, ['run', *COMMANDS])}", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[name].partition(":")
    from replicata.run.app import guarded

    return guarded(lambda: getattr(import_module(module), function)(rest))


if __name__ == "__main__":
    sys.exit(main())
