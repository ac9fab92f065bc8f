//! On whose behalf a request comes and how urgent it is. Knows no policy that weighs the one against the other.

use crate::TenantId;

/// What distinguishes requests of equal content when not all can be served at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RequestClass {
    /// Who asks.
    pub tenant: TenantId,
    /// Higher ones go first.
    pub priority: i32,
}
