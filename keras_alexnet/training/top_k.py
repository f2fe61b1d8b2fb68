"""Which of the top-k errors are computed, and which are worth showing. No framework is imported."""

TOP = 5


def informative_ranks(num_classes: int) -> tuple[int, ...]:
    """The k of the top-k errors to show: with five classes or fewer, the correct one is always in the top 5."""
    return (1, TOP) if num_classes > TOP else (1,)
