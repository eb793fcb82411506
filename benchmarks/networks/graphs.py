"""Networks of graphs: edges as indices of nodes, messages gathered and scattered; sets of points."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from zoo_case import Axis, Feeds, Sizes, case, f32, i64

NODES, EDGES = f32("x", "nodes", 6), i64("edge_index", 2, "edges", below=13)


def edges(sizes: Sizes, rng: np.random.Generator) -> Feeds:
    """Features of nodes, and edges between nodes that are there."""
    return {
        "x": rng.standard_normal((sizes["nodes"], 6)).astype(np.float32),
        "edge_index": rng.integers(0, sizes["nodes"], (2, sizes["edges"])),
    }


@case("graph", NODES, EDGES, sample=edges)
class GraphConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def propagate(self, x, edge_index):
        """The mean over neighbours, with degrees on both sides."""
        n = x.size(0)
        loops = torch.arange(n).repeat(2, 1)
        source, target = torch.cat([edge_index, loops], 1)
        degree = torch.zeros(n).scatter_add(0, target, torch.ones(target.size(0)))
        norm = degree.pow(-0.5)
        return torch.zeros_like(x).index_add(0, target, x[source] * (norm[source] * norm[target])[:, None])

    def forward(self, x, edge_index):
        x = self.propagate(self.a(x), edge_index).relu()
        return self.propagate(self.b(x), edge_index).log_softmax(-1)


@case("graph", NODES, EDGES, sample=edges)
class GraphAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inwards, self.score = nn.Linear(6, 8), nn.Linear(16, 1)

    def forward(self, x, edge_index):
        source, target = edge_index
        h = self.inwards(x)
        scores = nn.functional.leaky_relu(self.score(torch.cat([h[source], h[target]], -1))).squeeze(-1)
        scores = (scores - scores.max()).exp()
        total = torch.zeros(x.shape[0]).scatter_add(0, target, scores)
        return torch.zeros_like(h).index_add(0, target, h[source] * (scores / total[target])[:, None])


@case("graph", NODES, EDGES, sample=edges)
class GraphMaxPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.message = nn.Linear(12, 8)

    def forward(self, x, edge_index):
        source, target = edge_index[0], edge_index[1]
        messages = self.message(torch.cat([x[target], x[source] - x[target]], -1))
        found = torch.full((x.shape[0], 8), -1e3)
        return found.scatter_reduce(0, target[:, None].expand(-1, 8), messages, "amax")


@case("graph", NODES, EDGES, sample=edges)
class GraphBySparseMatrix(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 8)

    def forward(self, x, edge_index):
        n = x.shape[0]
        adjacency = torch.sparse_coo_tensor(edge_index, torch.ones(edge_index.shape[1]), (n, n))
        return torch.sparse.mm(adjacency, self.a(x))


@case("graph", f32("x", "batch", "nodes", 6), f32("adjacency", "batch", "nodes", "nodes", within=(0, 1)))
class DenseGraph(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, adjacency):
        adjacency = adjacency + torch.eye(adjacency.shape[-1])
        adjacency = adjacency / adjacency.sum(-1, keepdim=True)
        return self.b((adjacency @ self.a(x)).relu()).mean(1)


@case("graph", f32("points", "batch", 3, "rows"), axes=(Axis("rows", 5, 9, 24),))
class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.transform = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 9, 1))
        self.net, self.head = nn.Conv1d(3, 16, 1), nn.Linear(16, 4)

    def forward(self, points):
        matrix = self.transform(points).amax(2).view(-1, 3, 3) + torch.eye(3)
        return self.head(torch.max(self.net(torch.bmm(matrix, points)).relu(), 2)[0])


@case("graph", f32("points", "batch", "rows", 3), axes=(Axis("rows", 5, 9, 24),))
class NearestNeighbours(nn.Module):
    """Edge convolution over the four nearest points."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 8)

    def forward(self, points):
        distances = torch.cdist(points, points)
        near = distances.topk(4, largest=False).indices
        rows = torch.arange(points.shape[0])[:, None, None]
        neighbours = points[rows, near]
        centre = points[:, :, None].expand_as(neighbours)
        return self.net(torch.cat([centre, neighbours - centre], -1)).relu().amax(2)


@case("graph", f32("points", "batch", "rows", 3), axes=(Axis("rows", 6, 9, 24),))
class FarthestPoints(nn.Module):
    def forward(self, points):
        b, n, _ = points.shape
        distance = torch.full((b, n), 1e10)
        farthest, chosen = torch.zeros(b, dtype=torch.long), []
        for _ in range(4):
            chosen.append(farthest)
            centre = points[torch.arange(b), farthest][:, None]
            distance = torch.minimum(distance, ((points - centre) ** 2).sum(-1))
            farthest = distance.argmax(-1)
        return torch.stack(chosen, 1)


@case("graph", i64("graph", "nodes", below=3), f32("x", "nodes", 6))
class PoolsByGraph(nn.Module):
    """Means of the nodes of three graphs, of which one may have none."""

    def forward(self, graph, x):
        sums = torch.zeros(3, 6).index_add(0, graph, x)
        counts = torch.bincount(graph, minlength=3).clamp(min=1)
        return sums / counts[:, None]


@case("graph", i64("graph", "nodes", below=4), f32("x", "nodes", 6))
class CountsGraphs(nn.Module):
    """The number of graphs is taken from their ids."""

    def forward(self, graph, x):
        count = int(graph.max()) + 1
        return torch.zeros(count, 6).index_add(0, graph, x)
