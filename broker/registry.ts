import type { Aedes, Client } from 'aedes'

/** What Aedes does when a client is let in and when it has gone, beyond its public face. */
interface Registering {
  clients: Record<string, Client>
  _finishRegisterClient(client: Client): void
  unregisterClient(client: Client): void
}

/**
 * Which clients are connected. Aedes keeps them by client id alone: one that ends while its successor comes in takes
 * the successor out of the list, and one that ends before it is in the list is put there for ever. Each ends once
 * here, whatever the order.
 */
export function createRegistry(aedes: Aedes) {
  const registering = aedes as unknown as Registering
  const register = registering._finishRegisterClient.bind(aedes)
  const unregister = registering.unregisterClient.bind(aedes)
  const registered = new Set<Client>()

  registering._finishRegisterClient = (client) => {
    if ((client as { closed?: boolean }).closed) return
    registered.add(client)
    register(client)
  }

  function ended(client: Client): void {
    if (!registered.delete(client)) return
    const successor = registering.clients[client.id]
    unregister(client)
    if (successor && successor !== client) registering.clients[client.id] = successor
  }
  registering.unregisterClient = ended

  return {
    /** The connection of a client has closed. */
    ended,
    clients: registered as Iterable<Client>,
    get connected() {
      return registered.size
    },
  }
}
