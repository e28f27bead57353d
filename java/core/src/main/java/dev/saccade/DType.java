package dev.saccade;

import java.util.Collections;
import java.util.EnumSet;
import java.util.Locale;
import java.util.Set;

/** Element types of a {@link Tensor}. */
public enum DType {
  /** IEEE 754 binary32. */
  F32(4, "F32"),
  /** The upper half of a binary32. */
  BF16(2, "BF16"),
  /** IEEE 754 binary16. */
  F16(2, "F16"),
  /** IEEE 754 binary64. */
  F64(8, "F64"),
  /** Two's complement, 32 bits. */
  I32(4, "I32"),
  /** Two's complement, 64 bits. */
  I64(8, "I64"),
  /** Unsigned bytes; masks and flags. */
  U8(1, "U8");

  /** What the operations call <i>float</i>: f32, bf16 and f16. */
  public static final Set<DType> FLOAT =
      Collections.unmodifiableSet(EnumSet.of(DType.F32, DType.BF16, DType.F16));

  private final int bytes;
  private final String safetensors;

  DType(int bytes, String safetensors) {
    this.bytes = bytes;
    this.safetensors = safetensors;
  }

  /** Bytes of one element. */
  public int bytes() {
    return bytes;
  }

  /** The name of this type in a safetensors header. */
  public String safetensorsName() {
    return safetensors;
  }

  /** {@code saccade_dtype} of the C ABI. */
  int code() {
    return ordinal();
  }

  /** The value of bf16 bits. */
  public static float bf16ToFloat(short bits) {
    return Float.intBitsToFloat(bits << 16);
  }

  /** bf16 bits, rounded to nearest, ties to even; NaN stays NaN, made quiet. */
  public static short floatToBf16(float value) {
    int bits = Float.floatToRawIntBits(value);
    if (Float.isNaN(value)) {
      return (short) ((bits | 0x400000) >>> 16);
    }
    return (short) ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
  }

  /** The value of binary16 bits. */
  public static float f16ToFloat(short bits) {
    int sign = (bits & 0x8000) << 16;
    int rest = bits & 0x7fff;
    int magnitude;
    if (rest >= 0x7c00) { // infinity and NaN
      magnitude = 0x7f800000 | (rest & 0x3ff) << 13;
    } else if (rest >= 0x400) {
      magnitude = (rest << 13) + 0x38000000;
    } else { // subnormal: a multiple of 2^-24
      magnitude = Float.floatToRawIntBits(rest * 0x1p-24f);
    }
    return Float.intBitsToFloat(sign | magnitude);
  }

  /** binary16 bits, rounded to nearest, ties to even; NaN stays NaN, made quiet. */
  public static short floatToF16(float value) {
    int bits = Float.floatToRawIntBits(value);
    int sign = bits >>> 16 & 0x8000;
    int rest = bits & 0x7fffffff;
    int magnitude;
    if (rest > 0x7f800000) { // NaN
      magnitude = 0x7e00 | rest >>> 13 & 0x3ff;
    } else if (rest >= 0x477ff000) { // 65520 and more round to infinity
      magnitude = 0x7c00;
    } else if (rest >= 0x38800000) {
      magnitude = (rest - 0x38000000 + 0xfff + (rest >>> 13 & 1)) >>> 13;
    } else { // below 2^-14: a multiple of 2^-24, which adding 1/2 rounds to
      magnitude = Float.floatToRawIntBits(Float.intBitsToFloat(rest) + 0.5f) - 0x3f000000;
    }
    return (short) (sign | magnitude);
  }

  @Override
  public String toString() {
    return safetensors.toLowerCase(Locale.ROOT);
  }
}
