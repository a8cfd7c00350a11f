"""The decoder blocks of a transformers model: finding them, skipping some in place, and cutting them out of a copy.

Skipped blocks are left out of the list that a forward goes over, or, where it asks for the places of blocks, calling
them is the identity. That alone is silently wrong wherever the cache's length is read off a
skipped layer (22 of 24 families, padded batches and static caches), so its place in every cache is a `DummyLayer`,
which holds nothing and is passed over when a length is asked for. Blocks are found by structure, not by a table of
architectures. Toggling blocks in the middle of a generation is not supported: the cache would miss positions.
"""

import ast
import copy
import functools
import inspect
import textwrap
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perstep.errors import InputError, how_to_install
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers import version
from perstep.targets.transformers._wrap import Function, Make, Value, Wraps
from perstep.targets.transformers.instrument import _compiled, find_model
from perstep.targets.transformers.protocols import Cache, Config, Model

if TYPE_CHECKING:
    from torch.nn import Module, ModuleList

_SHARING = "kv_sharing_modes"
"""Of a configuration, by layer: "reuse" gives the layer a DummyLayer in every cache made from the configuration."""
_CACHES = ("past_key_values", "cache_params")


@dataclass(frozen=True)
class Blocks:
    """The decoder blocks of a model.

    Attributes:
        model: the model that generates.
        path: the modules a forward passes on its way to the blocks: the model first, their owner last.
        name: of the list, in its owner.
        blocks: the list itself, a ModuleList.
        config: of the text part.
    """

    model: Model
    path: "tuple[Value, ...]"
    name: str
    blocks: "ModuleList"
    config: Config


def find_blocks(given: object) -> Blocks:
    """The decoder blocks of a text or vision-language model.

    They are the outermost list of modules in the decoder that is as long as its configuration says.

    Raises:
        InputError: not a model that generates, an encoder-decoder model, one whose blocks share keys and values, or
            one in which no such list is found.
    """
    from torch.nn import ModuleList

    version.require()
    model = find_model(given)
    kind = type(model).__name__
    if model.config.is_encoder_decoder:
        raise InputError(f"{kind} is an encoder-decoder model: blocks can be skipped in decoder-only models")
    config = model.config.get_text_config(decoder=True)
    if hasattr(type(config), _SHARING):
        raise InputError(f"the blocks of {kind} share keys and values, so that none of them can be left out by itself")
    count = getattr(config, "num_hidden_layers", None)
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        inside = any(module is part for part in decoder.modules())
        if inside and isinstance(module, ModuleList) and len(module) == count:
            names = name.split(".")
            path = [model]
            for part in names[:-1]:
                path.append(getattr(path[-1], part))
            return Blocks(model, tuple(path), names[-1], module, config)
    raise InputError(f"no list of {count} decoder blocks is found in {kind}")


class SkippedBlocks:
    """Some blocks of a transformers model, skipped between `apply` and `remove`.

    Attributes:
        calls: how often each block ran meanwhile, [blocks]; those inside a compiled forward are not seen.

    Raises:
        InputError: as `find_blocks`, a compiled model, or a transformers without dummy cache layers.
    """

    def __init__(self, model: object, skipped: tuple[int, ...]) -> None:
        self._found = find_blocks(model)
        _refuse_without_attention(self._found, skipped)
        self._dummy = _dummy_layer()
        self._skipped = skipped
        self._wraps = Wraps()
        self._ready: Callable[[], Cache | None] = _nothing
        self.calls = [0] * len(self._found.blocks)

    @uninterrupted(undo="remove")
    def apply(self) -> None:
        """Put identities in place of the blocks, and dummies in the place of their cache layers.

        Raises:
            InputError: the model is compiled, or another mask is on it.
        """
        blocks = self._found
        compiled = _compiled(blocks.model)
        if compiled:
            raise InputError(
                f"{compiled} is compiled: put the BlockMask on a model before torch.compile, or without it"
            )
        configs = {id(config): config for config in (blocks.config, blocks.path[-1].config)}
        if any(_SHARING in vars(config) for config in configs.values()):
            raise InputError("another BlockMask is on this model; take it off first")
        try:
            self._wrap_blocks()
            if self._skipped:
                self._wrap_caches()
                modes = ["reuse" if index in self._skipped else None for index in range(len(blocks.blocks))]
                for config in configs.values():
                    self._wraps.value(config, _SHARING, modes)
        except BaseException:
            self.remove()
            raise

    @uninterrupted()
    def remove(self) -> None:
        """Put the blocks back. Caches made meanwhile keep their dummies, and refuse to be filled without the mask."""
        self._wraps.restore()
        self._ready = _nothing

    def _wrap_blocks(self) -> None:
        for index, block in enumerate(self._found.blocks):
            if index not in self._skipped:
                self._wraps.method(block, "forward", _counted(self.calls, index))
                continue
            kind: Value = type(block)
            identity = _identity(kind)  # Module.__call__ would cost several times what an identity does
            self._wraps.value(block, "__class__", identity)
            for child in block.children():  # should anything get round the identity, it is seen here
                self._wraps.method(child, "forward", _counted(self.calls, index))
        blocks = self._found
        owner: Value = type(blocks.path[-1])
        if self._skipped and _in_turn(owner, blocks.name):
            self._wraps.value(blocks.blocks, "__class__", _without(self._skipped))

    def _wrap_caches(self) -> None:
        """See every cache that comes from outside before anything reads its length."""
        for module in self._found.path:
            self._wraps.method(module, "forward", self._with_dummies)
        self._wraps.method(self._found.model, "_prepare_cache_for_generation", self._prepared_with_dummies)

    def _with_dummies(self, original: Function) -> Function:
        parameters = list(inspect.signature(original).parameters)
        places = {name: parameters.index(name) for name in _CACHES if name in parameters}

        def forward(*args: Value, **kwargs: Value) -> object:
            for name in _CACHES:
                place = places.get(name, len(args))
                cache = kwargs.get(name) if place >= len(args) else args[place]
                if cache is not None:
                    self._put_dummies(cache)
            return original(*args, **kwargs)

        return forward

    def _prepared_with_dummies(self, original: Function) -> Function:
        def _prepare_cache_for_generation(*args: Value, **kwargs: Value) -> object:
            result = original(*args, **kwargs)
            model_kwargs = kwargs["model_kwargs"] if "model_kwargs" in kwargs else args[2]
            for name in _CACHES:
                if model_kwargs.get(name) is not None:
                    self._put_dummies(model_kwargs[name])
            return result

        return _prepare_cache_for_generation

    def _put_dummies(self, cache: Value) -> None:
        if self._ready() is cache:  # as in every step but the first
            return
        layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", None)
        if layers is None:
            raise InputError(f"a {type(cache).__name__} has no layers of its own: blocks cannot be skipped with it")
        while len(layers) <= self._skipped[-1]:  # one that makes its layers when they are first filled
            layers.append(cache.layer_class_to_replicate())
        for index in self._skipped:
            layer = layers[index]
            if type(layer) is self._dummy:
                continue
            if layer.is_initialized and _holds_positions(layer):
                raise InputError(
                    f"the cache holds positions of block {index}, which is skipped now: begin with an empty cache"
                )
            layers[index] = self._dummy()
        self._ready = weakref.ref(cache)


def _refuse_without_attention(blocks: Blocks, skipped: tuple[int, ...]) -> None:
    """A hybrid's cache counts positions in its first attention block: without one no length is known."""
    kinds = [str(kind) for kind in getattr(blocks.config, "layer_types", None) or []]
    attention = [i for i, kind in enumerate(kinds) if kind.endswith("attention") and not kind.startswith("linear")]
    if attention and set(attention) <= set(skipped):
        raise InputError(
            f"none of the active blocks of {type(blocks.model).__name__} is attention, where its cache counts"
            f" positions; keep one of them active ({', '.join(map(str, attention))})"
        )


def truncate(given: object, active: tuple[int, ...], *, share_weights: bool = False) -> Model:
    """A copy of a model with some blocks cut out and the rest renumbered: what a `BlockMask` must be equal to.

    Args:
        given: a transformers model.
        active: indices of the blocks to keep, ascending.
        share_weights: the copy has no weights of its own, but those of the model; otherwise it takes the memory of the
            whole model once more. Only with shared ones are two step times comparable to 1 %: where weights lie decides
            how much of them a shared cache keeps.

    Raises:
        InputError: as `find_blocks`.
    """
    from torch.nn import ModuleList

    model = find_model(given)
    shared = (*model.parameters(), *model.buffers()) if share_weights else ()
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    blocks = find_blocks(model)
    kept = [blocks.blocks[index] for index in active]
    for place, block in enumerate(kept):
        for module in block.modules():
            if isinstance(vars(module).get("layer_idx"), int):
                vars(module)["layer_idx"] = place
    setattr(blocks.path[-1], blocks.name, ModuleList(kept))
    for config in {id(config): config for config in (blocks.config, blocks.path[-1].config)}.values():
        types = vars(config).get("layer_types")
        config.num_hidden_layers = len(kept)
        if types is not None:
            config.layer_types = [types[index] for index in active]
    return model


def _nothing() -> None:
    """A reference to no cache."""


def _dummy_layer() -> type:
    from transformers import cache_utils

    if not hasattr(cache_utils, "DummyLayer"):
        raise InputError(
            "this transformers has no cache layer that holds nothing, without which skipped blocks give wrong results; "
            f"5.23 was tested: {how_to_install('hf')}"
        )
    layer: type = cache_utils.DummyLayer
    return layer


@functools.cache
def _identity(kind: Value) -> type:
    """A class of blocks like `kind` whose call returns its input."""
    num_outputs = _num_outputs(kind)
    others = (None,) * (num_outputs - 1)

    def as_it_is(_self: object, hidden_states: object, *_args: object, **_kwargs: object) -> object:
        return hidden_states

    def in_a_tuple(_self: object, hidden_states: object, *_args: object, **_kwargs: object) -> object:
        return (hidden_states, *others)

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**names, "__call__": in_a_tuple if num_outputs else as_it_is})


@functools.cache
def _without(skipped: tuple[int, ...]) -> type:
    """A class of ModuleLists over which a forward goes as over that of the truncated model.

    Children, names and length stay, and so do single blocks asked for by their places.
    """
    from torch.nn import ModuleList

    def kept(self: "ModuleList") -> "list[Module]":
        return [block for index, block in enumerate(self._modules.values()) if index not in skipped]

    def go_over(self: "ModuleList") -> "Iterator[Module]":
        return iter(kept(self))

    def get(self: "ModuleList", place: int | slice) -> "Module":
        # A slice is a new list and costs what it does in the truncated model.
        return ModuleList(kept(self)[place]) if isinstance(place, slice) else ModuleList.__getitem__(self, place)

    return type("ModuleList", (ModuleList,), {"__iter__": go_over, "__getitem__": get})


@functools.cache
def _in_turn(kind: Value, name: str) -> bool:
    """Whether the forward of a module goes over its list of blocks from the first, and does nothing else with it.

    Then no block's place among them is asked for: some families look up the mask of a block by its place.
    """
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(kind.forward)))
    except (OSError, TypeError):
        return False
    tree = ast.parse(source)
    loops = {_plain(node.iter) for node in ast.walk(tree) if isinstance(node, ast.For)} & {f"self.{name}"}
    mentions = sum(isinstance(node, ast.Attribute) and ast.unparse(node) == f"self.{name}" for node in ast.walk(tree))
    return bool(loops) and mentions == 1


def _plain(node: ast.expr) -> str:
    """What is gone over; of `self.layers[: self.config.num_hidden_layers]` the list."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.slice) == ":self.config.num_hidden_layers":
        node = node.value
    return ast.unparse(node)


def _counted(calls: list[int], index: int) -> Make:
    from torch.compiler import is_compiling

    def make(original: Function) -> Function:
        def forward(*args: object, **kwargs: object) -> object:
            if not is_compiling():  # a compiler would take the count for a constant
                calls[index] += 1
            return original(*args, **kwargs)

        return forward

    return make


def _num_outputs(kind: Value) -> int:
    """How long the tuple is that a block's forward returns; 0 for a tensor. Read off its source.

    Raises:
        InputError: there is no source to read.
    """
    try:
        source = textwrap.dedent(inspect.getsource(kind.forward))
    except (OSError, TypeError) as error:
        raise InputError(f"the source of {kind.__name__}.forward cannot be read: {error}") from error
    function = ast.parse(source).body[0]
    returned = max(_returns(function), key=lambda node: node.lineno, default=None)
    return len(returned.value.elts) if returned is not None and isinstance(returned.value, ast.Tuple) else 0


def _returns(node: ast.AST) -> Iterator[ast.Return]:
    """The return statements of a function, those of functions inside it left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield from _returns(child)


def _holds_positions(layer: Value) -> bool:
    return not hasattr(layer, "get_seq_length") or int(layer.get_seq_length()) > 0
