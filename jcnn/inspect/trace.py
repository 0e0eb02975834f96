"""The wall time of each part of a program, from a trace of JAX's profiler.

The profiler records what each thread computes at which time: operations of a compiled
program, which may nest, and tasks that an operation gives to other threads. Nothing is
counted twice: an operation has the time that its thread spends in it and in none inside
of it, and at each moment the time is divided equally among the threads that compute.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

Direction = Literal["forward", "backward", "neither"]
Operation = tuple[str, str]  # names of an XLA module and of an instruction in it


class Place(NamedTuple):
    """Where in a differentiated function a computation belongs.

    Attributes:
        part: Path such as "stage2/conv1"; "" outside of all parts.
        direction: Whether it is of the forward pass, of the backward one, or neither:
            not of what is differentiated.
    """

    part: str
    direction: Direction


def part_seconds(trace: Any, programs: str, parts: Collection[str]) -> Counter[Place]:
    """Return the wall time of each part, forward and backward, in seconds.

    An operation that XLA has fused of several belongs to the part of the last of them.
    One that XLA has added, without a name, belongs to the part whose result it takes,
    or if it takes an argument of the program, to the part that takes its result.

    Args:
        trace: What the profiler has recorded, a `jax.profiler.ProfileData`.
        programs: HLO of the compiled programs, one after the other: `as_text()`.
        parts: Paths of the parts: named scopes, without transformations.

    >>> from jax.profiler import ProfileData
    >>> hlo = '''HloModule jit_f
    ... ENTRY %main (x: f32[]) -> f32[] {
    ...   ROOT %a = f32[] abs(%x), metadata={op_name="jit(f)/transpose(jvp(fc))/abs"}
    ... }'''
    >>> events = 'events { metadata_id: 1 duration_ps: 2000 stats { metadata_id: 1 ' \\
    ...     'str_value: "a" } stats { metadata_id: 2 str_value: "jit_f" } }'
    >>> text = 'planes { name: "/host:CPU" lines { ' + events + '''}
    ... event_metadata { key: 1 value { id: 1 name: "a" } }
    ... stat_metadata { key: 1 value { id: 1 name: "hlo_op" } }
    ... stat_metadata { key: 2 value { id: 2 name: "hlo_module" } } }'''
    >>> part_seconds(ProfileData.from_text_proto(text), hlo, ["fc"])
    Counter({Place(part='fc', direction='backward'): 2e-09})
    """
    names = _names(programs)
    seconds: Counter[Place] = Counter()
    for (module, operation), duration in operation_seconds(trace).items():
        # A call of a library has the library's name behind its own.
        own = operation, operation.rpartition("__")[0]
        found = next((names[module, n] for n in own if (module, n) in names), [])
        places = [_place(name, parts) for name in found]
        within = [place for place in places if place.part]
        seconds[(within or places or [Place("", "neither")])[0]] += duration
    return seconds


# --- the trace ---


class _Span(NamedTuple):
    """What a thread does for a time: an operation, a task, or (None) neither."""

    begin: float
    end: float
    operation: Operation | None = None
    task: Any = None


def operation_seconds(trace: Any) -> Counter[Operation]:
    """Return the wall time of each operation, in seconds.

    Their sum is the time in which at least one thread computed.
    """
    moments: list[Any] = []
    for thread, events in enumerate(_threads(trace)):
        for span in _spans(events):
            if span.begin < span.end:
                moments.append((span.begin, 1, -span.end, thread, span))
                moments.append((span.end, 0, 0, thread, span))
        for event in events:
            if event.name == "ThreadpoolListener::Record":
                moments.append((event.start_ns, 2, 0, thread, event))
    moments.sort(key=lambda moment: moment[:4])
    givers: dict[Any, Operation | None] = {}  # of tasks, by their number
    inside: dict[int, list[Any]] = defaultdict(list)  # by thread, the innermost last
    computing: dict[int, Operation] = {}  # by thread
    nanoseconds: Counter[Operation] = Counter()
    before = 0.0
    for now, kind, _, thread, of in moments:
        for operation in computing.values():
            nanoseconds[operation] += (now - before) / len(computing)
        before, stack = now, inside[thread]
        if kind == 2:
            givers[dict(of.stats).get("_p")] = computing.get(thread)
            continue
        if kind == 1:
            given = of.task is not None
            stack.append((of, givers.get(of.task) if given else of.operation))
        else:
            stack[:] = [entry for entry in stack if entry[0] is not of]
        operation = stack[-1][1] if stack else None
        if operation is None:
            computing.pop(thread, None)
        else:
            computing[thread] = operation
    return Counter({name: n / 1e9 for name, n in nanoseconds.items()})


def _threads(trace: Any) -> list[list[Any]]:
    """Return the events of each thread, or of each stream if a device has any."""
    of_planes: dict[bool, list[list[Any]]] = {True: [], False: []}
    for plane in trace.planes:
        for line in plane.lines:
            on_device = plane.name.startswith("/device:")
            of_planes[on_device].append(list(line.events))
    computes = any(map(_operation, sum(of_planes[True], [])))
    return of_planes[computes]


def _operation(event: Any) -> Operation | None:
    stats = {} if event.name.startswith("end: ") else dict(event.stats)
    if "hlo_op" not in stats:
        return None
    return str(stats.get("hlo_module", "")), str(stats["hlo_op"])


def _spans(events: list[Any]) -> Iterator[_Span]:
    begun = []
    for event in sorted(events, key=lambda event: event.start_ns):
        begin, end = event.start_ns, event.start_ns + event.duration_ns
        if event.name == "ThreadpoolListener::StartRegion":
            begun.append((begin, dict(event.stats).get("_c")))
        elif event.name == "ThreadpoolListener::StopRegion":
            if begun:
                start, task = begun.pop()
                yield _Span(start, end, task=task)
        elif event.name == "ThunkExecutor::Execute":
            yield _Span(begin, end)  # it looks for the next operation
        elif operation := _operation(event):
            yield _Span(begin, end, operation)


# --- the program ---

_MODULE = re.compile(r"HloModule ([^\s,]+)")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?(\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(\S+) = ")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_OPERAND = re.compile(r" [\w-]+\(%([^\s,)]+)")
_CALLS = re.compile(
    r"(?:calls|body|condition|to_apply|\w+_computations?)="
    r"\{?(%[^\s{},]+(?:, %[^\s{},]+)*)"
)
# What loops and branches are called, and what JAX computes apart or again.
_NO_PART = re.compile(
    r"(?<![^/])(?:while/(?:body|cond)|cond/branch_\d+_fun|closed_call|checkpoint|"
    r"rematted_computation)(?=/|$)"
)


def _names(programs: str) -> dict[Operation, list[str]]:
    """Return JAX's name of each instruction, if any, and of the loops around it."""
    module = computation = ""
    own: dict[Operation, str] = {}
    operand: dict[Operation, Operation] = {}  # the first one
    user: dict[Operation, Operation] = {}  # the first one
    inside: dict[Operation, Operation] = {}  # of which computation
    caller: dict[Operation, Operation] = {}  # of a computation
    for line in programs.splitlines():
        if found := _MODULE.match(line):
            module = found[1]
        elif found := _COMPUTATION.match(line):
            computation = found[1]
        elif found := _INSTRUCTION.match(line):
            instruction = module, found[1]
            inside[instruction] = module, computation
            # A parameter's name is the path of an argument.
            if (name := _OP_NAME.search(line)) and " parameter(" not in line:
                own[instruction] = name[1]
            if name := _OPERAND.search(line):
                operand[instruction] = module, name[1]
                user.setdefault((module, name[1]), instruction)
            for called in _CALLS.findall(line):
                for name in called.split(","):
                    caller.setdefault((module, name.strip(" %")), instruction)

    def names(at: Operation | None) -> Iterator[str]:
        while at is not None:
            for neighbour in (operand, user):
                named: Operation | None = at
                while named is not None and named not in own:
                    named = neighbour.get(named)
                if named is not None:
                    yield own[named]
                    break
            at = caller.get(inside[at])

    return {instruction: list(names(instruction)) for instruction in inside}


def _place(name: str, parts: Collection[str]) -> Place:
    """Return the place of an operation with a name such as "jit(f)/jvp(conv1)/dot".

    >>> _place("jit(f)/while/body/transpose(jvp(body))/conv/jit(g)/mul", {"body/conv"})
    Place(part='body/conv', direction='backward')
    """
    scopes = [scope for scope in _NO_PART.sub("", name).split("/") if scope]
    # What is computed again names its part twice: "transpose(jvp(a))/jvp(a)/mul".
    begins = [i for i, scope in enumerate(scopes) if "jvp(" in scope]
    for begin in (*reversed(begins), 0):
        path = [name for name in map(_unwrapped, scopes[begin:]) if name]
        for count in range(len(path), 0, -1):
            if (part := "/".join(path[:count])) in parts:
                return Place(part, direction_of(name))
    return Place("", direction_of(name))


def direction_of(name: str) -> Direction:
    """Return the direction of what has this name, or this stack of names in a jaxpr.

    >>> direction_of("jit(f)/transpose(jvp(conv1))/mul")
    'backward'
    """
    if "jvp(" not in name:
        return "neither"
    return "backward" if "transpose(" in name else "forward"


def _unwrapped(scope: str) -> str:
    """Return a scope without transformations; nothing of a compiled function."""
    while found := re.fullmatch(r"(\w+)\((.*)\)", scope):
        scope = "" if found[1] in ("jit", "pjit") else found[2]
    return scope
