//! How a protobuf message of Istio's API is written down here: one struct whose JSON is protobuf's JSON.
//!
//! Every field may be absent and then has its default, defaults are not written, unknown fields are an error.
//! Fields whose absence means something else than their default are `Option`s.

/// Declares messages: structs of public fields, with everything that a resource type needs derived.
macro_rules! message {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        $(#[$meta])*
        pub struct $name {$(
            $(#[$field_meta])*
            #[serde(skip_serializing_if = "crate::message::is_default")]
            pub $field: $type,
        )*}
    )*};
}

/// Declares protobuf enums: written in upper snake case; the default is what stands when the field is absent.
macro_rules! keyword {
    ($($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident,)* })*) => {$(
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        $(#[$meta])*
        pub enum $name { $($(#[$variant_meta])* $variant,)* }
    )*};
}

pub(crate) use {keyword, message};

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
