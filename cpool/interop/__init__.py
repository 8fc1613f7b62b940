"""Exchange with other libraries; each module is imported only by those who ask for it."""

__all__: list[str] = []
