"""Query interaction by a dynamic graph: Object-DGCNN (arXiv 2110.06923), with the EdgeConv of DGCNN (arXiv 1801.07829).

h_i = max over the k nearest queries j of i of MLP([q_i, q_j - q_i])

Deviation: no batch norm inside the MLP, since the layer norm of the decoder layer follows. Its first linear layer is
computed once a query instead of once an edge, which is the same.

Shape legend: B batch, Q queries, N neighbours of a query, C channels.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class GraphInteraction(nn.Module):
    """Exchanges features between each query and those nearest to it in feature space, itself among them.

    Args:
        embed_dim: Channels.
        num_neighbours: Queries that a query listens to (k).
    """

    def __init__(self, *, embed_dim: int, num_neighbours: int) -> None:
        super().__init__()
        self.num_neighbours = num_neighbours
        self.edge = nn.Linear(2 * embed_dim, embed_dim)
        self.output = nn.Linear(embed_dim, embed_dim)

    def forward(self, content: Tensor, position: Tensor) -> Tensor:
        """Update (B, Q, C) of queries with content (B, Q, C) and positional part (B, Q, C), without the residual."""
        query_BQC = content + position
        weight_own, weight_difference = self.edge.weight.chunk(2, dim=1)
        own_BQC = linear(query_BQC, weight_own - weight_difference, self.edge.bias)
        other_BQC = linear(query_BQC, weight_difference)
        other_BQNC = gather_queries(other_BQC, nearest_queries(query_BQC, self.num_neighbours))
        edges_BQNC = self.output((own_BQC.unsqueeze(2) + other_BQNC).relu())
        return edges_BQNC.amax(dim=2)


@torch.no_grad()
def nearest_queries(query: Tensor, num_neighbours: int) -> Tensor:
    """Indices (B, Q, N) int64 of the nearest queries in the feature space of (B, Q, C)."""
    return torch.cdist(query.float(), query.float()).topk(num_neighbours, dim=-1, largest=False).indices


def gather_queries(features: Tensor, index: Tensor) -> Tensor:
    """Features (B, Q, C) at index (B, Q, N): (B, Q, N, C)."""
    item = torch.arange(len(features), device=features.device)[:, None, None]
    return features[item, index]
