//! Macros that turn a table of parameters into a struct and its definition.
//!
//! A row is `<presence> <name>: <type> = <value>, <parameter type>, <group>;` below its help text. `unset` parameters may end in
//! `, else <value>`: what the task takes for null, which help texts and docs show and the task itself fills in. A macro that adds rows takes a list of macros in
//! brackets and passes the table on to the first of them. The last one is `params`.

macro_rules! presence {
    (required, $value:expr) => {
        (Presence::Required, || Value::Null)
    };
    (unset, $value:expr) => {
        (Presence::Unset, || Value::Null)
    };
    (default, $value:expr) => {
        (Presence::Default, || json!($value))
    };
}

macro_rules! fallback {
    () => {
        None
    };
    ($value:expr) => {
        Some(|| json!($value))
    };
}

macro_rules! params {
    ([] $(#[doc = $about:literal])+ $name:ident { $( $(#[doc = $help:literal])+ $presence:ident $field:ident: $ty:ty = $value:expr, $param_type:expr, $group:ident $(, else $fallback:expr)?; )* }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct $name { $( $(#[doc = $help])+ pub $field: $ty, )* }

        impl Default for $name {
            fn default() -> Self { $name { $( $field: $value, )* } }
        }

        impl TaskParams for $name {
            fn non_finite_field(&self) -> Option<&'static str> {
                $( if !Finite::finite(&self.$field) { return Some(stringify!($field)); } )*
                None
            }

            fn params() -> &'static [Param] {
                static PARAMS: &[Param] = &[ $( {
                    const PRESENCE: (Presence, fn() -> Value) = presence!($presence, $value);
                    Param {
                        name: stringify!($field),
                        help: concat!($($help),+),
                        value_type: $param_type,
                        group: Group::$group,
                        presence: PRESENCE.0,
                        default: PRESENCE.1,
                        fallback: fallback!($($fallback)?),
                        absent: || json!($value as $ty),
                    }
                } ),* ];
                PARAMS
            }
        }
    };
}
