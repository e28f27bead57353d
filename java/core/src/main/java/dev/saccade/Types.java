package dev.saccade;

import java.util.Set;

/** Sets of element types that arguments accept, besides {@link DType#FLOAT}. */
final class Types {
  static final Set<DType> F32 = Set.of(DType.F32);
  static final Set<DType> F64 = Set.of(DType.F64);
  static final Set<DType> I32 = Set.of(DType.I32);
  static final Set<DType> I64 = Set.of(DType.I64);

  /** A stored attention map. */
  static final Set<DType> MAP = Set.of(DType.F32, DType.BF16);

  private Types() {}
}
