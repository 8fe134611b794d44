//! The node agent: takes what the CNI plugin says of this node's pods, keeps it, and brings it to the registry.
//!
//! One direction: the plugin's intents come in over a unix socket, or from its spool; the book keeps them in a folder
//! before they are acknowledged; the registrar brings what the book says to the registry, under one session for the node.
