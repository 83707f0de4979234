"""The compiler's table of contents: a graph and a target in, a program out.

    graph → graph (rewrite) → load graph and run graph (hoist)
          each → groups, storage orders, nests (plan) → kernels (lower, simplify, verify)
          → dispatches and tensors → arena offsets (allocate)

Every pass is a named pure function with a verifier behind it; the passes over one kernel stand in
`KERNEL_PASSES`. Example: `compile_graph(build(load(path), …), load_target("cpu"))`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Hashable, Sequence
from dataclasses import dataclass, replace

from sdlc.graph.expr import Apply, Expr, Read, children, walk
from sdlc.graph.hoist import Hoisted, hoist
from sdlc.graph.names import free_name
from sdlc.graph.node import Const, Graph, Input, Node, Role, topological
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import RewriteReport, Rule
from sdlc.graph.types import Array, DType
from sdlc.kernel.addresses import few_addresses
from sdlc.kernel.cut import cut_loops
from sdlc.kernel.gather import gather_loads
from sdlc.kernel.ir import Access, Buffer, Kernel
from sdlc.kernel.lower import loop_names, lower
from sdlc.kernel.pairs import move_pairs
from sdlc.kernel.partial import partial_sums
from sdlc.kernel.prefetch import prefetch_slices
from sdlc.kernel.promote import promote_arrays
from sdlc.kernel.selected import name_selected_loads
from sdlc.kernel.settled import settle_local_values
from sdlc.kernel.simplify import simplify_kernel
from sdlc.kernel.translate import Storage
from sdlc.kernel.verify import verify
from sdlc.language.diagnostics import SdlError, failure, half_precision
from sdlc.program.execute import check_sizes
from sdlc.program.inplace import in_place
from sdlc.program.memory import LOAD, STATIC, align, allocate
from sdlc.program.program import Dispatch, MemoryReport, Program, Tensor, TensorRole
from sdlc.program.refusal import refusals_located
from sdlc.program.workers import each
from sdlc.schedule.budget import rewritten, weight_bytes
from sdlc.schedule.draft import EVERY
from sdlc.schedule.group import Group
from sdlc.schedule.plan import Plan, Scheduled, plan
from sdlc.schedule.point import NO_CHOICES, Choices
from sdlc.schedule.profit import scheduled_by
from sdlc.schedule.storage import stored_count
from sdlc.target import Target

Value = tuple[Node, int]

KERNEL_PASSES: tuple[tuple[str, Callable[[Kernel, Target], Kernel]], ...] = (
    ("simplify", lambda kernel, target: simplify_kernel(kernel)),
    ("promote", lambda kernel, target: promote_arrays(kernel, target.caps.f16_arithmetic)),
    ("cut", lambda kernel, target: cut_loops(kernel)),
    ("settle", lambda kernel, target: settle_local_values(kernel)),
    (
        "gather",
        lambda kernel, target: gather_loads(
            kernel, target.profile.gather, target.caps.f16_arithmetic
        ),
    ),
    (
        "selected",
        lambda kernel, target: name_selected_loads(kernel) if target.profile.registers else kernel,
    ),
    ("pairs", lambda kernel, target: move_pairs(kernel, target.caps.f16_arithmetic)),
    ("prefetch", lambda kernel, target: prefetch_slices(kernel, target)),
    ("partial sums", lambda kernel, target: partial_sums(kernel, target.profile.partial_sums)),
    (
        "addresses",
        lambda kernel, target: few_addresses(kernel) if target.profile.registers else kernel,
    ),
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """Points of groups' schedule spaces that a tuner has found best, and the bytes that weights may
    take as they are stored (None: as many as pay)."""

    choices: Choices
    weight_budget: int | None = None


NO_WISHES = Wishes(NO_CHOICES)


def compile_graph(
    graph: Graph,
    target: Target,
    precision: DType = DType.F32,
    rules: Sequence[Rule] | None = None,
    wishes: Wishes = NO_WISHES,
) -> Program:
    """The program of a graph, rewritten by these rules, for a target; verified at every level.
    Without rules nothing is rewritten, and the schedule uses every mechanism.

    `precision` is recorded in the program; the graph has its types already. Raises SdlError (P007)
    for tensors that the target cannot bind, (P011) for a budget that no weights fit.
    """
    made = planned(graph, target, rules, wishes)
    return compile_hoisted(made.parts, made.plan, target, precision)


@dataclass(frozen=True, slots=True)
class Planned:
    """A rewritten graph, what rules said of it, its two parts, and the plan of what runs do."""

    graph: Graph
    report: RewriteReport
    parts: Hoisted
    plan: Plan


def planned(
    graph: Graph,
    target: Target,
    rules: Sequence[Rule] | None = None,
    wishes: Wishes = NO_WISHES,
) -> Planned:
    """The graph rewritten and planned, within the budget of its weights.

    Raises SdlError (P011) where weights take more than that without any rule that makes them
    larger, and N001 for a schedule that cannot be applied."""
    enabled = EVERY if rules is None else scheduled_by(rules)
    chosen = tuple(rules or ())
    budget = room = wishes.weight_budget
    while True:
        made, report = rewritten(graph, chosen, target, room)
        parts, scheduled = plan_graph(made, target, wishes.choices, enabled)
        taken = 0 if budget is None else stored_weights(parts.run, scheduled)
        if budget is None or room is None or taken <= budget:
            return Planned(made, report, parts, scheduled)
        if not any(report.fired(r.name) for r in chosen if r.numerics is Numerics.BILINEAR):
            raise _over_budget(graph, taken, budget)
        # Blocks of weights are padded: as much less is left for what makes weights larger.
        room = min(room, weight_bytes(parts.run)) - (taken - budget)


def stored_weights(graph: Graph, scheduled: Plan) -> int:
    """Bytes of weights and constants as they are stored."""
    tensors = tensors_of(graph, scheduled)[1].values()
    return sum(align(t.nbytes, 4) for t in tensors if t.role in STATIC)


def _over_budget(graph: Graph, least: int, budget: int) -> SdlError:
    weights = (n for n in topological(graph) if isinstance(n, Input) and n.role is Role.WEIGHT)
    message = (
        f"the weights of `{graph.name}` take {least:,} bytes, more than the budget of {budget:,}"
    )
    help = f"give --weight-budget {-(-least // 2**20)}MiB or more"
    if all(half_precision(weight.dtype) for weight in weights):
        help = f"{help}, or --precision f16"
    return failure("P011", message, help)


def plan_graph(
    graph: Graph,
    target: Target,
    choices: Choices = NO_CHOICES,
    enabled: frozenset[str] = EVERY,
) -> tuple[Hoisted, Plan]:
    """A rewritten graph in its two parts, and the plan of what runs do, with the mechanisms
    `enabled`. Raises SdlError (N001) for a schedule that cannot be applied."""
    parts = hoist(graph)
    with refusals_located():
        return parts, plan(parts.run, target, choices=choices, enabled=enabled)


def compile_hoisted(
    parts: Hoisted,
    scheduled: Plan,
    target: Target,
    precision: DType = DType.F32,
    processes: int = 1,
) -> Program:
    """The program of a hoisted graph whose run graph is planned: what its load program gives is
    stored as the plan says. Its kernels are made in so many processes at most (`workers.each`)."""
    program = compile_plan(parts.run, scheduled, target, precision, processes)
    if parts.load is None:
        return program
    with refusals_located():
        made = load_plan(parts.load, parts, scheduled, target)
    load = compile_plan(parts.load, made, target, precision, processes)
    return _with_load(program, load, target)


def load_plan(load: Graph, parts: Hoisted, scheduled: Plan, target: Target) -> Plan:
    """The plan of a load graph whose results are stored as the plan of the runs reads them."""
    values = {value: (weight, 0) for value, weight in parts.weights.items()}
    orders = {value: scheduled.orders[read] for value, read in values.items()}
    blocks = {v: scheduled.blocks[read] for v, read in values.items() if read in scheduled.blocks}
    packed = {v: scheduled.packed[read] for v, read in values.items() if read in scheduled.packed}
    made = plan(load, target, orders, enabled=scheduled.enabled)
    return replace(made, blocks=blocks, packed={**made.packed, **packed})


def compile_plan(
    graph: Graph,
    scheduled: Plan,
    target: Target,
    precision: DType = DType.F32,
    processes: int = 1,
) -> Program:
    """The program of a graph whose kernels, storage orders and blocks are planned."""
    names, tensors = tensors_of(graph, scheduled)
    check_sizes(tensors.values(), target.caps.max_binding, f"the target `{target.name}`")
    kernels, dispatches = kernels_of(scheduled, names, tensors, target, processes)
    program = Program(
        name=graph.name,
        target=target.name,
        precision=precision,
        tensors=tensors,
        inputs=tuple(i.name for i in graph.inputs),
        outputs=tuple(name for name, _, _ in graph.outputs),
        kernels=kernels,
        dispatches=dispatches,
        memory=MemoryReport(0, 0, 0, 0),
        constants=_constants(graph, names),
        flop=sum(k.group.flop for k in scheduled.kernels),
    )
    if target.caps.overlapping_bindings and "in_place" in scheduled.enabled:
        program = in_place(program, scheduled, names)
    overlapping = target.caps.overlapping_bindings
    return allocate(program, target.caps.offset_alignment, overlapping=overlapping)


def _with_load(program: Program, load: Program, target: Target) -> Program:
    """`program` with a load program, whose weights share its arena; kernels' names made unique."""
    names: dict[str, str] = {}
    for kernel in load.kernels:
        names[kernel] = free_name(f"load_{kernel}", program.kernels, names.values())
    kernels = {names[n]: replace(k, name=names[n]) for n, k in load.kernels.items()}
    dispatches = tuple(replace(d, kernel=names[d.kernel]) for d in load.dispatches)
    load = replace(load, kernels=kernels, dispatches=dispatches)
    caps = target.caps
    load = allocate(load, caps.offset_alignment, LOAD, caps.overlapping_bindings)
    return replace(program, load=load)


def tensors_of(graph: Graph, scheduled: Plan) -> tuple[dict[Value, str], dict[str, Tensor]]:
    """Every stored value's unique name, and the tensors by name, without arena offsets."""
    names = _tensor_names(graph, scheduled)
    return names, _tensors(graph, scheduled, names)


def _tensor_names(graph: Graph, scheduled: Plan) -> dict[Value, str]:
    """A unique name for every stored value: inputs' and results' own, weights' scope paths."""
    names: dict[Value, str] = {}
    for declared in graph.inputs:
        names[(declared, 0)] = declared.name
    for name, node, field in graph.outputs:
        names.setdefault((node, field), name)
    taken = set(names.values())
    values = [v for k in scheduled.kernels for v in (*k.group.operands, *_stored(k.group))]
    for node, field in values:
        if (node, field) not in names:
            base = node.name if isinstance(node, Input) else _base(node, field)
            names[(node, field)] = name = free_name(base, taken)
            taken.add(name)
    return names


def _base(node: Node, field: int) -> str:
    scope = f"{node.origin.scope}." if node.origin.scope else ""
    many = len(node.dtypes) > 1
    suffix = f".{node.monoid.fields[field].name}" if many else ""  # type: ignore[union-attr]
    return f"{scope}{node.origin.name}{suffix}"


def _stored(group: Group) -> list[Value]:
    return [(s.node, s.field) for s in group.stores]


def _tensors(graph: Graph, scheduled: Plan, names: dict[Value, str]) -> dict[str, Tensor]:
    results = {(node, field) for _, node, field in graph.outputs}
    tensors: dict[str, Tensor] = {}
    for value, name in names.items():
        node, field = value
        dtype = node.dtypes[field]
        role = _role(node, value in results)
        weight = node.name if isinstance(node, Input) and role is TensorRole.WEIGHT else ""
        order, block = scheduled.stored(value)
        nbytes = stored_count(node.shape, order, block) * dtype.itemsize
        tensors[name] = Tensor(
            name, node.shape, dtype, order, role, nbytes, 0, weight, node.origin, block
        )
    return tensors


def _role(node: Node, is_result: bool) -> TensorRole:
    match node:
        case Input():
            return TensorRole.WEIGHT if node.role is Role.WEIGHT else TensorRole.INPUT
        case Const():
            return TensorRole.CONSTANT
        case _:
            return TensorRole.OUTPUT if is_result else TensorRole.TEMPORARY


def _constants(graph: Graph, names: dict[Value, str]) -> dict[str, Array]:
    return {
        names[(node, 0)]: node.array
        for node in topological(graph)
        if isinstance(node, Const) and (node, 0) in names
    }


def kernels_of(
    scheduled: Plan,
    names: dict[Value, str],
    tensors: dict[str, Tensor],
    target: Target,
    processes: int = 1,
) -> tuple[dict[str, Kernel], tuple[Dispatch, ...]]:
    """Every distinct kernel once, and the dispatches in order. A kernel that is used again keeps
    the names and the origins of its first use. They are made in so many processes at most."""
    jobs: dict[str, _Job] = {}
    known: dict[Hashable, tuple[str, dict[str, int]]] = {}
    uses: list[tuple[Group, str, dict[str, int], list[str]]] = []
    begun: set[Value] = set()
    for item in scheduled.kernels:
        storage = storage_of(item, names, tensors, begun)
        begun.update(_stored(item.group))
        profile = item.profile or target.profile
        if item.group.wide:
            profile = replace(profile, partial_sums=0)
        meaning = (signature(item, storage), profile)
        if meaning not in known:
            name = _kernel_name(item.group, jobs)
            known[meaning] = name, {s.buffer.name: n for n, s in enumerate(storage.values())}
            jobs[name] = _Job(name, item, storage, replace(target, profile=profile))
        uses.append((item.group, *known[meaning], [names[v] for v in storage]))
    order = tuple(jobs.values())
    made = each(lambda number: order[number].kernel(), len(order), processes)
    kernels = dict(zip(jobs, made, strict=True))
    dispatches = []
    for group, name, places, bound in uses:
        bindings = tuple((b.name, bound[places[b.name]]) for b in kernels[name].buffers)
        dispatches.append(Dispatch(name, bindings, _label(group), group.flop))
    return kernels, tuple(dispatches)


@dataclass(frozen=True, slots=True)
class _Job:
    """A kernel to be: each is made for itself."""

    name: str
    item: Scheduled
    storage: dict[Value, Storage]
    target: Target

    def kernel(self) -> Kernel:
        """The kernel, verified."""
        kernel = lower(self.item.group, self.item.nest, self.storage, self.name)
        for _, change in KERNEL_PASSES:
            kernel = change(kernel, self.target)
        verify(kernel, self.target.caps)
        return kernel


def signature(item: Scheduled, storage: dict[Value, Storage]) -> Hashable:
    """Equal for two kernels to be if lowering them gives one kernel, names and origins apart."""
    group = item.group
    values: dict[Value, Hashable] = {
        value: (number, replace(s, buffer=replace(s.buffer, name="")))
        for number, (value, s) in enumerate(storage.items())
    }
    values |= {v: n for n, v in enumerate(sorted_held(group))}
    return (tuple(_meaning(part, values) for part in group.parts), item.nest)


def sorted_held(group: Group) -> list[Value]:
    """The values that exist only inside the kernel, in the order in which they are computed."""
    return [(s.node, s.field) for part in group.inner for s in part.stores]


def _meaning(group: Group, values: dict[Value, Hashable]) -> Hashable:
    """What one part computes, with values named by where they are."""
    places: dict[Expr, int] = {}
    parts: list[Hashable] = []
    for e in walk(*group.expressions, *(i for s in group.stores for i in s.indices)):
        places[e] = len(places)
        inner = tuple(places[c] for c in children(e))
        match e:
            case Read():
                guarded = e.fill is not None
                data = e.source.data if isinstance(e.source, Const) else b""
                parts.append((values[(e.source, e.field)], inner, guarded, data))
            case Apply():
                parts.append((e.op, inner))
            case _:
                parts.append(e)
    stores = tuple(
        (values[(s.node, s.field)], places[s.value], tuple(places[i] for i in s.indices))
        for s in group.stores
    )
    lift = tuple(places[e] for e in group.lift)
    return (tuple(parts), group.axes, group.over, group.monoid, lift, stores)


def storage_of(
    item: Scheduled,
    names: dict[Value, str],
    tensors: dict[str, Tensor],
    begun: Collection[Value] = (),
) -> dict[Value, Storage]:
    """Buffers for what a group reads and stores, named as in the source; of what is `begun`,
    earlier groups have stored other parts, which stay."""
    group = item.group
    taken = loop_names(item.nest)
    storage: dict[Value, Storage] = {}
    written = _stored(group)
    for value in dict.fromkeys((*group.operands, *written)):
        tensor = tensors[names[value]]
        name = free_name(_identifier(_buffer_base(value)), taken)
        taken.add(name)
        access = Access.WRITE if value in written else Access.READ
        access = Access.READ_WRITE if value in written and value in begun else access
        size = tensor.nbytes // tensor.dtype.itemsize
        buffer = Buffer(name, tensor.dtype, size, access=access)
        storage[value] = Storage(buffer, tensor.shape, tensor.order, tensor.block)
    return storage


def _buffer_base(value: Value) -> str:
    node, field = value
    if isinstance(node, Input):
        return node.name.rsplit(".", 1)[-1]
    many = len(node.dtypes) > 1
    return f"{node.origin.name}_{node.monoid.fields[field].name}" if many else node.origin.name  # type: ignore[union-attr]


def _identifier(name: str) -> str:
    """`name` in letters, digits and underscores; printers rename what their language reserves."""
    clean = "".join(c if c.isalnum() or c == "_" else "_" for c in name)
    return clean if clean[:1].isalpha() else f"v{clean}"


def _kernel_name(group: Group, taken: Container[str]) -> str:
    parts = [o.definition for o in group.origins if o.definition]
    stem = _identifier("_".join(dict.fromkeys(parts)) or "kernel")
    return free_name(f"{stem}_{group.name.replace(chr(39), '')}", taken)


def _label(group: Group) -> str:
    origin = group.origins[-1]
    return ".".join(p for p in (origin.scope, origin.definition, origin.name) if p)
