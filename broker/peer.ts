/** The other end of a connection. */
export interface Peer {
  address: string
  /** In its client certificate, which was verified. */
  names: readonly string[]
  /** The connection is encrypted. */
  secure: boolean
}
