"""What a slave and its workers share: records on a socket, a status page in shared memory, descriptors."""
