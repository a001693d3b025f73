"""What nodes of ours have in common in Slicer's scene."""

from __future__ import annotations

from typing import Any


def add_node(scene: Any, node: Any, name: str, view: str) -> Any:
    """Adds a node with its display node, shown in the view of that id alone; neither is saved."""
    node.SetName(name)
    node.SetSaveWithScene(False)
    scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSaveWithScene(False)
    node.GetDisplayNode().AddViewNodeID(view)
    return node


def remove_node(scene: Any, node: Any) -> None:
    """Takes a node and the display nodes that are its own out of the scene."""
    if node is None or not scene.IsNodePresent(node):
        return
    for number in reversed(range(node.GetNumberOfDisplayNodes())):
        display = node.GetNthDisplayNode(number)
        if display is not None and scene.IsNodePresent(display):
            scene.RemoveNode(display)
    scene.RemoveNode(node)
