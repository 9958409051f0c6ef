/** What is kept of usage reports, and what of them fits the schema and not PostgreSQL: that must not stop the counting. */

/** Of a key: as many programs of one client can be seen to switch over. */
export const SOURCES_KEPT = 100
/** Of what was sent again by somebody, for each key. */
export const REPLAY_SOURCES_KEPT = 20
/** A count beyond it could leave 64 bits. */
export const MOST = 1e12
