import { spawnSync } from 'node:child_process'
import {
  type HubProcess,
  type HubProcessOptions,
  mainFile,
  startHubProcess,
  temporaryFolder,
  waitFor,
} from '../hub-process.ts'

/** `telemetry-hub token|device …` on a folder; the secret that it prints. */
export function command(folder: string, ...args: string[]): string {
  return commandWith('', folder, ...args)
}

export function commandWith(input: string, folder: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [mainFile, ...args, '--data', folder], {
    input,
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(stderr)
  return stdout.trim()
}

export interface ProtectedHub extends HubProcess {
  admin: string
  /** A request with a token. */
  as(token: string, path: string, init?: RequestInit): Promise<Response>
  /** The same beside the running hub, which has heard of it when this resolves. */
  command(...args: string[]): Promise<string>
}

/** A hub that has an administrator. */
export async function startProtectedHub(options: HubProcessOptions = {}): Promise<ProtectedHub> {
  const folder = options.folder ?? (await temporaryFolder())
  const admin = command(folder, 'token', 'create', '--name', 'admin', '--role', 'admin')
  const hub = await startHubProcess({ ...options, folder })
  const as: ProtectedHub['as'] = (token, path, init = {}) =>
    fetch(hub.http + path, { ...init, headers: { authorization: `Bearer ${token}`, ...init.headers } })
  async function heardBy(): Promise<string[]> {
    const { credentials } = (await (await as(admin, '/v1/credentials')).json()) as { credentials: { id: string }[] }
    return credentials.map(({ id }) => id).sort()
  }
  function written(): string[] {
    const kinds = ['token', 'device'].flatMap((kind) => JSON.parse(command(folder, kind, 'list', '--json')))
    return (kinds as { id: string }[]).map(({ id }) => id).sort()
  }
  return {
    ...hub,
    admin,
    as,
    async command(...args) {
      const printed = command(folder, ...args)
      const wanted = written().join()
      await waitFor(async () => (await heardBy()).join() === wanted)
      return printed
    },
  }
}
