"""Exchange with other libraries; each module is imported only by those who ask for it."""
