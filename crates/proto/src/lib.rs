//! The protobuf types (from a published crate), type URLs and the JSON mapping. No logic.
