"""``reclap convert``: convert a checkpoint to a folder of ours, transformers or LAION-CLAP."""

import argparse

from reclap.cli import options
from reclap.cli.options import Commands

__all__ = ["add_convert"]


def add_convert(commands: Commands) -> None:
    """Add the command."""
    p = commands.add_parser(
        "convert", help="convert a model to a folder of ours, transformers or LAION-CLAP"
    )
    p.add_argument("model", metavar="SRC", help="name, folder, file, or hf:ORG/NAME of the hub")
    p.add_argument("out", metavar="DST", type=options.named_path, help="folder to write")
    p.add_argument(
        "--format",
        choices=("reclap", "hf", "laion"),
        default="reclap",
        help="model folder of ours, of transformers' ClapModel, or model.pt of LAION-CLAP and "
        "ReCLAP (default: reclap)",
    )
    options.add_loading(p)
    options.add_threads(p)
    p.add_argument("--force", action="store_true", help="replace an existing folder")
    p.set_defaults(run=_run_convert)


def _run_convert(args: argparse.Namespace) -> int:
    options.check_out(args.out, args.force, folder=True)
    model = options.load_model(args)
    model.save(args.out, args.format, overwrite=args.force)
    print(f"{args.out}: {model.info()['family']}, digest {model.digest}")
    return 0
