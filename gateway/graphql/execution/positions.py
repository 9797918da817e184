"""Releases the tokens of documents, of which graphql-core keeps all.

Every node has a position (`loc`), which refers to its first and last token, and the tokens form a chain in both
directions. They are a third of the objects of a document, only the garbage collector can free them, and a full
collection traverses those of all documents while the event loop waits. What uses a position after validation, which is
`GraphQLError`, reads its offsets and its source alone.
"""

from graphql import DocumentNode, Node


def release_tokens(document: DocumentNode) -> None:
    """Replaces the tokens of all positions of a validated document by its first one, and dissolves their chain."""
    assert document.loc is not None
    first = token = document.loc.start_token
    while token.next is not None:
        token.prev, following = None, token.next
        token.next = None
        token = following
    token.prev = None
    nodes: list[Node] = [document]
    while nodes:
        node = nodes.pop()
        if node.loc is not None:
            node.loc.start_token = node.loc.end_token = first
        for key in node.keys:
            value = getattr(node, key)
            if isinstance(value, Node):
                nodes.append(value)
            elif value.__class__ is tuple:
                nodes.extend(value)
