/** Who is at the other end of a connection, as far as its transport can tell. */
export interface Peer {
  address: string
  /** What a client certificate that was verified calls its owner: common name, DNS names, URIs. Without one none. */
  names: readonly string[]
  /** Whether nobody on the way can read along. */
  secure: boolean
}
