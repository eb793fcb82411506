"""Finds a network at ``path/to/file.py:function``; the function returns it, or it with example inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from torchlift.checksums import sha256
from torchlift.declare.module import ATTRIBUTE, ModuleDeclaration
from torchlift.errors import InputError, ModuleSourceError
from torchlift.families.base import Family, LoadOptions, Model
from torchlift.families.module.model import UserModel
from torchlift.families.module.networks import plain
from torchlift.families.user_code import imported, users_code


class ModuleFamily(Family):
    """A user's own network."""

    name = "module"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Import the file, call the function, find the outputs' shapes. Raises ModuleSourceError, SignatureError."""
        file, function = _split(source)
        builder = imported(file, function)
        torch.manual_seed(0)
        remedy = "It is called without arguments and must return an nn.Module."
        with users_code(f"{function} in {file.name} failed", remedy):
            built = builder()
        network, example = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
        if not isinstance(network, nn.Module):
            raise ModuleSourceError(
                f"{function} in {file.name} returned {type(network).__name__}",
                remedy="It must return an nn.Module, or a tuple of one and its example inputs.",
            )
        declaration = replace(getattr(builder, ATTRIBUTE, None) or ModuleDeclaration(), example=example)
        origin = (sha256(file), function)
        name = f"{file.stem}.{function}"
        return UserModel(name, plain(network, copied=False), declaration, options, file.parent, origin)


def live_model(network: object, declaration: ModuleDeclaration) -> Model:
    """A network that lives in this process as a model. It is copied, and stays as it is.

    Files that the declaration names, such as a tokenizer's, are relative to the working folder. Raises InputError for
    what is no network, ModuleSourceError and SignatureError for what does not fit it.
    """
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{type(network).__name__} is no network",
            remedy="Give a torch.nn.Module, or the name of a family and where its model is.",
        )
    name = str(getattr(network, "original_name", type(network).__name__))
    return UserModel(name, plain(network, copied=True), declaration, LoadOptions(), Path.cwd(), (name,))


def _split(source: str) -> tuple[Path, str]:
    path, _, function = source.rpartition(":")
    if not path or not function.isidentifier():
        raise ModuleSourceError(f"{source!r} names no function", remedy="Write path/to/file.py:function.")
    file = Path(path)
    if not file.is_file():
        raise ModuleSourceError(f"{file} does not exist", remedy="Write path/to/file.py:function.")
    return file, function
