"""A lower bound on mutual information to maximise: InfoNCE (arXiv 1807.03748, equation 4) with a learned critic.

f(h_T, h_S) = <g_T(h_T), g_S(h_S)> / temperature, with g a two-layer perceptron onto the unit sphere
InfoNCE_i = -log( exp f(i, i) / (exp f(i, i) + sum over the negatives j of exp f(i, j)) ) for teacher feature i
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from training.distill.base import exact_product


class Critic(nn.Module):
    """g_T and g_S.

    Args:
        teacher_dim: Size of a teacher feature.
        student_dim: Size of a student feature.
        width: Size of what both are mapped to, and of the layer before it.
    """

    def __init__(self, *, teacher_dim: int, student_dim: int, width: int) -> None:
        super().__init__()
        self.teacher = _perceptron(teacher_dim, width)
        self.student = _perceptron(student_dim, width)

    def forward(self, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (..., teacher_dim) and (..., student_dim) to unit vectors (..., width), float32."""
        return normalize(self.teacher(teacher).float(), dim=-1), normalize(self.student(student).float(), dim=-1)


def info_nce(teacher: Tensor, student: Tensor, excluded: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE of each teacher vector, its positive being the student vector of the same place.

    Args:
        teacher: (..., N, D).
        student: (..., N, D).
        excluded: (..., N, N) bool, teacher by student: pairs that are not negatives. The diagonal, which holds the
            positives, is not read.
        temperature: Divides the products.

    Returns:
        (..., N), not negative; 0 for one without negatives.
    """
    scores = exact_product(teacher, student.transpose(-1, -2)) / temperature
    positive = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    allowed = scores.masked_fill(excluded & ~positive, float("-inf"))
    return allowed.logsumexp(dim=-1) - scores.diagonal(dim1=-2, dim2=-1)


def _perceptron(size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width))
