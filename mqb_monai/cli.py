"""The command line, ``python -m mqb_monai``; a command imports what it needs when it runs, so listing them is quick."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fire
from fire.decorators import SetParseFns

from mqb_monai.errors import InputError

FLAG = re.compile(r"--.+|-[a-zA-Z].*")  # what fire takes for a flag; "-1" is a value


@SetParseFns(out=str)
def phantom(*, out: str, num: int = 20, seed: int = 0) -> None:
    """Write synthetic abdominal CT volumes with labels and a datalist.

    Args:
        out: the folder to make.
        num: number of cases.
        seed: of the random generator.
    """
    from mqb_monai.data.phantom import write_phantoms

    print(f"wrote {write_phantoms(out, num, seed)}")


@SetParseFns(out=str, source=str)
def hippocampus(*, out: str, source: str = "") -> None:
    """Write the hippocampus MRI data set (Medical Segmentation Decathlon, Task04) with our four disjoint lists.

    Args:
        out: the folder to make.
        source: the unpacked public folder Task04_Hippocampus; downloaded where it is not given.
    """
    from mqb_monai.data.hippocampus import write_hippocampus

    print(f"wrote {write_hippocampus(out, source or None)}")


# As plain strings: fire would make a tuple of "a,b", a list of "[ab]*.nii.gz" and cut "a#b" off at the "#".
@SetParseFns(bundle=str, scheme=str, images=str, datalist=str, weights=str, exclude=str, out=str)
def quantize(
    *,
    bundle: str,
    scheme: str = "w8a8_engine",
    images: str | Sequence[str] = (),
    datalist: str = "",
    weights: str = "",
    exclude: str | Sequence[str] = (),
    out: str = "",
) -> None:
    """Quantize the network of any MONAI bundle, as published, calibrated on images without labels.

    The bundle's config and its scripts are run: quantize only bundles that you trust.

    Args:
        bundle: the bundle's folder, with configs/inference.json or .yaml.
        scheme: w8a8_engine (what integer kernels compute), w8a8_per_channel, ...
        images: quoted pattern of the images to calibrate on, as '/data/*.nii.gz'.
        datalist: instead of images: JSON list of dictionaries as the bundle's preprocessing reads them.
        weights: FP32 state dict; models/model.pt of the bundle where it is not given.
        exclude: name patterns of layers to leave in floating point, as 'model.0.*,*.residual'.
        out: the folder to write to; models/quantized of the bundle where it is not given.
    """
    from mqb_monai.handlers.bundle_quantization import quantize_bundle

    result = quantize_bundle(
        bundle,
        scheme,
        images=(images,) if isinstance(images, str) else tuple(images),
        datalist=datalist or None,
        weights=weights or None,
        exclude=as_list(exclude),
        out=out or None,
    )
    _print_result(result)


def _print_result(result: Any) -> None:
    record = result.record
    floats = record.left_out | dict.fromkeys(record.not_calibrated, "no calibration data reached it")
    print(f"wrote {result.path} and its record {result.path.with_suffix('.json').name}")
    print(f"{len(record.layers)} layers quantized on {result.cases} case(s), {len(floats)} left in floating point")
    for name, reason in floats.items():
        print(f"  {name}: {reason}")
    print(f'load it: from mqb_monai import load_quantized; qnet = load_quantized(network, r"{result.path}")')
    print("  where network is the bundle's network_def with the FP32 weights that it came from")


COMMANDS: dict[str, Any] = {
    "data": {"phantom": phantom, "hippocampus": hippocampus},
    "quantize": quantize,
}


def as_list(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the parts of ``"a,b"``, or of a tuple or list of such strings."""
    texts = (value,) if isinstance(value, str) else value
    return tuple(part.strip() for text in texts for part in str(text).split(",") if part.strip())


def describe_commands(commands: dict[str, Any] = COMMANDS, prefix: str = "") -> list[str]:
    """Return one line for each command."""
    lines = []
    for name, command in commands.items():
        if isinstance(command, dict):
            lines += describe_commands(command, f"{prefix}{name} ")
        else:
            lines.append(f"  {prefix + name:<20}{inspect.getdoc(command).splitlines()[0]}")
    return lines


def check_arguments(words: Sequence[str]) -> None:
    """Refuse what the command has no use for, before it runs: fire runs it first and complains afterwards.

    Raises:
        InputError: an unknown command or option (with the nearest ones), an option without its value, a stray word.
    """
    command, used = _find_command(words)
    if command is None or {"--help", "-h"} & set(words):
        return
    name, options = " ".join(words[:used]), inspect.signature(command).parameters
    expects_value = ""
    for word in words[used:]:
        if FLAG.fullmatch(word):
            _require_no_wait(expects_value)
            key, equals, _ = word.lstrip("-").partition("=")
            if key.replace("-", "_") not in options or not word.startswith("--"):
                near = difflib.get_close_matches(key, options, n=2) or options
                raise InputError(f"{word} is no option of {name}: did you mean {' or '.join('--' + o for o in near)}?")
            expects_value = "" if equals else word
        elif expects_value:
            expects_value = ""
        else:
            raise InputError(f"{name}: unexpected {word!r}. Quote a pattern, so that the shell leaves it alone.")
    _require_no_wait(expects_value)


def _require_no_wait(flag: str) -> None:
    if flag:
        raise InputError(f"{flag} needs a value.")


def _find_command(words: Sequence[str]) -> tuple[Callable | None, int]:
    """Return the command and how many words name it; None for a group alone, whose help fire shows."""
    commands: Any = COMMANDS
    for used, word in enumerate(words):
        if FLAG.fullmatch(word):
            return None, used
        if word not in commands:
            raise InputError(f"unknown command {word!r}: expected {' or '.join(commands)}.")
        commands = commands[word]
        if not isinstance(commands, dict):
            return commands, used + 1
    return None, len(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; the user's mistakes end it with one sentence on stderr and exit code 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(
            "\n".join(
                [
                    "python -m mqb_monai COMMAND [--option VALUE ...]   (COMMAND --help for its options)",
                    *describe_commands(),
                ]
            )
        )
        return
    try:
        check_arguments(words)
        fire.Fire(COMMANDS, command=words, name="mqb_monai")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        print("interrupted: nothing was written", file=sys.stderr)
        raise SystemExit(130) from error
