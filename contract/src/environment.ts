export const ENVIRONMENTS = ['dev', 'test', 'prod'] as const
export type Environment = (typeof ENVIRONMENTS)[number]
