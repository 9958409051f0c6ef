/** Which room may import which (docs/adr and CONTRIBUTING.md say why). `npm run imports` checks it. */
const ROOMS = [
  'contract',
  'planning',
  'gateway',
  'client',
  'registry',
  'activities',
  'workflows',
  'workers',
  'api',
  'cli',
  'infra',
  'test',
  'bench',
]

/** Everything of ours but these rooms and files. */
const oursBut = (...allowed) => ({ path: `^(${ROOMS.join('|')})/`, pathNot: allowed.map((path) => `^${path}`) })

const CONTRACT = 'contract/'
const PLANNING = 'planning/'
const SETTINGS = 'infra/(config|log)[.]ts$'

/** `room` imports only itself and `allowed`; from the rooms in `types` it takes types alone. */
const rule = (room, because, allowed, types = []) => {
  const from = { path: `^${room}` }
  const rules = [
    {
      name: `${room.replace(/\W+/g, '-').replace(/^-|-$/g, '')}-imports`,
      comment: because,
      severity: 'error',
      from,
      to: oursBut(room, ...allowed, ...types),
    },
  ]
  for (const other of types) {
    rules.push({
      name: `${room}-takes-types-of-${other}`.replaceAll('/', ''),
      comment: because,
      severity: 'error',
      from,
      to: { path: `^${other}`, dependencyTypesNot: ['type-only'] },
    })
  }
  return rules
}

module.exports = {
  forbidden: [
    { name: 'no-cycles', comment: 'arrows point one way', severity: 'error', from: {}, to: { circular: true } },
    { name: 'no-dead-ends', comment: 'an import that leads nowhere', severity: 'error', from: {}, to: { couldNotResolve: true } },

    ...rule('contract/', 'the contract imports nothing of ours', []),
    ...rule('planning/', 'when things are due is arithmetic: it knows of no server', [CONTRACT]),
    ...rule('gateway/', 'who installs the gateway must not install the rest', [CONTRACT]),
    ...rule('client/', 'who installs the client must not install the rest', [CONTRACT]),
    ...rule('registry/', 'the registry knows of no process', [CONTRACT, 'infra/config[.]ts$']),
    ...rule('activities/', 'activities do one thing to the world each; workers put them together', [
      CONTRACT,
      PLANNING,
      'registry/',
      // The stores of clients, which it writes to as they do.
      'client/src/(index|aws|vault)[.]ts$',
      'infra/(config|log|topics)[.]ts$',
    ]),
    ...rule('workflows/', 'workflows are deterministic: activities are known to them by type alone', [CONTRACT], ['activities/']),
    ...rule('api/', 'the routes know workflows by type alone', [CONTRACT, PLANNING, 'registry/', SETTINGS], ['workflows/']),
    ...rule('workers/', 'workers put everything together', [
      CONTRACT,
      PLANNING,
      'gateway/',
      'registry/',
      'activities/',
      'workflows/',
      'api/',
      'infra/',
    ]),
    ...rule('infra/config[.]ts$', 'everyone imports the configuration', [CONTRACT]),
    ...rule('infra/log[.]ts$', 'everyone imports the log', [CONTRACT]),
    ...rule('infra/topics[.]ts$', 'whoever makes topics starts no process', [CONTRACT, SETTINGS]),
    ...rule('cli/', 'the command is a client of the API', [
      CONTRACT,
      'gateway/',
      'client/',
      'infra/',
      'registry/',
      'activities/',
      'workers/',
    ]),
    {
      name: 'cli-loads-the-control-plane-late',
      comment: 'only administrators’ commands load it, by a dynamic import; the others start without it, and without schemas',
      severity: 'error',
      from: { path: '^cli/' },
      to: {
        path: '^(gateway|client|registry|activities|workers|infra)/|^contract/src/(index|events|key-record|leak-report|policy|policy-check|reports|selector)[.]ts$|(^|/)node_modules/typebox/',
        dynamic: false,
        dependencyTypesNot: ['type-only'],
      },
    },
    {
      name: 'nobody-imports-the-cli',
      severity: 'error',
      from: { pathNot: '^(cli|test|bench)/' },
      to: { path: '^cli/' },
    },
    {
      name: 'nobody-imports-tests',
      severity: 'error',
      from: { pathNot: '^(test|bench)/|^vitest[.]config' },
      to: { path: '^(test|bench)/' },
    },

    {
      name: 'client-loads-no-node-and-no-schemas',
      comment: 'it runs in browsers: what it takes of the contract needs neither Node nor typebox',
      severity: 'error',
      from: { path: '^client/' },
      to: {
        path: '^contract/',
        pathNot: '^contract/src/(environment|headers|ids|key-kind|problem)[.]ts$',
        dependencyTypesNot: ['type-only'],
      },
    },
    {
      name: 'client-has-no-node',
      comment: 'what needs Node stands behind an entry of its own',
      severity: 'error',
      from: { path: '^client/src/', pathNot: '^client/src/(node|aws|vault|kubernetes|agent)[.]ts$|^client/src/(stores|agent)/' },
      to: { dependencyTypes: ['core'], dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'workflows-have-no-node',
      comment: 'Temporal replays workflows in a sandbox without Node',
      severity: 'error',
      from: { path: '^workflows/' },
      to: { dependencyTypes: ['core'], dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'workflows-load-no-node',
      comment: 'these files of the contract load Node’s modules; import @keyturn/contract/rotation and the like instead',
      severity: 'error',
      from: { path: '^workflows/' },
      to: { path: '^contract/src/(index|events|token|asyncapi)[.]ts$', dependencyTypesNot: ['type-only'] },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '(^|/)dist/' },
    tsPreCompilationDeps: true,
    // Without this it would read the ignored `types` of a package or miss its `.ts` entry.
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      extensions: ['.ts', '.mjs', '.js', '.json'],
    },
  },
}
