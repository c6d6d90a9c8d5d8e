"""What is measured in a cluster, and how it is summarised. Pure: values and times come in, numbers and texts go out."""
