//! What users write: resource types, defaulting, validation, CRD schemas.
