"""How the field lays out its checkpoints: where the state dict stands, what its names are wrapped in, and the
normalisation that some carry."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from harness.errors import InputError

State = dict[str, Tensor]

# under which training scripts put the state dict, among other things such as the optimiser's
_NESTED = ("state_dict", "model_state_dict", "model", "net", "rmodel")
_CHOSEN = ("best", "last")  # two networks of one training
_AVERAGED = re.compile(r"(^|[_.-])(ema|swa|avg|averaged?)([_.-]|$)", re.IGNORECASE)  # weights averaged over training
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_IN_AVERAGES = ("shadow", "module")  # where an average keeps its state dict
_COUNTER = "n_averaged"  # of torch's AveragedModel, beside the parameters
# Saved and never called: a block that TRADES' WRN owns, the second copy that MadryLab's `robustness` keeps to attack
_UNUSED = ("sub_block1.", "attacker.")
_PARALLEL = re.compile(r"(module|_orig_mod)\.")  # what torch's own wrappers, parallel and compiled, put before names
_WRAPPERS = ("module.", "_orig_mod.", "model.", "basic_net.", "1.")  # 1. is a Sequential's that begins by normalising
_NORMALISATION = re.compile(r"(?:normali[sz]er?\.|0\.)?(?:(?P<mean>mu|(?:new_)?mean)|(?P<std>sigma|(?:new_)?std))")


def state_among(path: object, content: object, weights: str | None) -> object:
    """The state dict among what a file holds. weights: which of several. Averaged weights are another network than the
    raw ones beside them, and so are the best and the last of a training: which to take is never guessed."""
    if not isinstance(content, Mapping):
        return content
    averaged = [
        key
        for key, value in content.items()
        if _AVERAGED.search(_CAMEL.sub("_", str(key))) and isinstance(value, Mapping)
    ]
    names = ", ".join(map(str, averaged))
    if averaged and weights is None:
        raise InputError(f"checkpoint {path} holds averaged weights ({names}): say which to take, weights: ema or raw")
    if weights == "ema" and len(averaged) > 1:
        raise InputError(f"checkpoint {path} holds several averages ({names}): keep one in a file of its own")
    if averaged and weights in ("ema", "raw"):
        raw = {key: value for key, value in content.items() if key not in averaged}
        return _nested(content[averaged[0]], (*_NESTED, *_IN_AVERAGES)) if weights == "ema" else _nested(raw, _NESTED)
    chosen = [key for key in _CHOSEN if _holds_tensors(content.get(key))]
    others = [key for key in _NESTED if _holds_tensors(content.get(key))]
    if weights in chosen or (chosen and weights is None and len(chosen + others) == 1):
        return state_among(path, content[weights or chosen[0]], None)
    if chosen and weights is None:
        raise InputError(
            f"checkpoint {path} holds several networks ({', '.join(chosen + others)}): say which to take, "
            f"weights: {' or '.join(chosen)}, or keep one in a file of its own"
        )
    if len(others) > 1 and weights is None:
        raise InputError(
            f"checkpoint {path} holds several networks ({', '.join(others)}): keep one in a file of its own"
        )
    inner = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None)
    if inner is not None:
        return state_among(path, inner, weights)
    if weights is not None:
        what = "averaged weights" if weights in ("ema", "raw") else f"network '{weights}'"
        raise InputError(f"checkpoint {path} holds no {what}, so that 'weights: {weights}' means nothing")
    return content


def _holds_tensors(content: object) -> bool:
    """Whether it is a state dict, or a mapping with one in it; `best` may be numbers as well."""
    if not isinstance(content, Mapping):
        return False
    return any(isinstance(value, Tensor) or _holds_tensors(value) for value in content.values())


def _nested(content: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    return content


def plain_names(path: object, content: object) -> State:
    """The tensors of a state dict by name. InputError for what is no state dict."""
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"checkpoint {path} holds no state dict")
    state: State = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"checkpoint {path} holds no plain state dict: {key!r} is a {type(value).__name__}")
        state[key] = value.detach()
    return {key: value for key, value in state.items() if key != _COUNTER}


def fitted(state: Mapping[str, Tensor], expected: Collection[str], source: str) -> tuple[State, State]:
    """The tensors under the names that a network expects, and apart from them the normalisation, `mean` and `std`, that
    its own code kept with it; empty where it has none. Names that fit already stay as they are. InputError, `source` in
    it, for parameters that are there twice."""
    state = _used(_single(state, expected, source), expected)
    if expected and state.keys() >= set(expected):
        own = {key for key in state if key in expected}
    else:
        state, own = _unwrapped(state, expected), set(expected)
    found = {key: match for key in state.keys() - own if (match := _NORMALISATION.fullmatch(key))}
    parts = {str(match.lastgroup): state[key] for key, match in found.items()}
    if len(found) != 2 or parts.keys() != {"mean", "std"}:  # one of them says nothing
        return state, {}
    return {key: value for key, value in state.items() if key not in found}, parts


def _single(state: Mapping[str, Tensor], expected: Collection[str], source: str) -> State:
    """Without what torch's own wrappers put before names, but where the network calls its modules so."""
    found: State = {}
    for key, value in state.items():
        name = key
        while name not in expected and (wrapper := _PARALLEL.match(name)):
            name = name[wrapper.end() :]
        found[name] = value
    if len(found) < len(state):
        raise InputError(f"{source} holds parameters twice, with and without the prefix 'module.'")
    return found


def _unwrapped(state: State, expected: Collection[str]) -> State:
    """Without the wrappers that all names of parameters have and the network's do not."""
    while wrapper := _common_wrapper(state):
        if any(name.startswith(wrapper) for name in expected):
            break
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return _used(state, expected)


def _used(state: Mapping[str, Tensor], expected: Collection[str]) -> State:
    return {key: value for key, value in state.items() if key in expected or not key.startswith(_UNUSED)}


def _common_wrapper(names: Iterable[str]) -> str | None:
    parameters = [name for name in names if not _NORMALISATION.fullmatch(name)]
    return next((each for each in _WRAPPERS if parameters and all(name.startswith(each) for name in parameters)), None)
