"""A notebook cell as a task: parsed, its names analysed and captured, compiled to a function."""
