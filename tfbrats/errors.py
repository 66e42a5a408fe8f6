"""What a person can mend. Whatever else is raised keeps its traceback."""


class InputError(ValueError):
    """Something that the person gave is wrong: says what, expected, found, where, what to do."""
