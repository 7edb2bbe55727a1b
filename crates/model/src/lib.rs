//! What the mesh knows: `World` takes `Change`s and yields `Snapshot`s.
