package dev.saccade;

import java.util.Collections;
import java.util.EnumSet;
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
  I32(4, "I32"),
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

  /** bf16 bits, rounded to nearest, ties to even; NaN stays NaN. */
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
    float magnitude =
        rest >= 0x7c00
            ? Float.intBitsToFloat(0x7f800000 | (rest & 0x3ff) << 13)
            : Float.intBitsToFloat(rest << 13) * 0x1p112f;
    return Float.intBitsToFloat(Float.floatToRawIntBits(magnitude) | sign);
  }

  /** binary16 bits, rounded to nearest, ties to even; NaN stays NaN. */
  public static short floatToF16(float value) {
    int bits = Float.floatToRawIntBits(value);
    int sign = bits >>> 16 & 0x8000;
    bits &= 0x7fffffff;
    int half;
    if (bits > 0x7f800000) {
      half = 0x7e00;
    } else if (bits >= 0x477ff000) { // 65520 and more round to infinity
      half = 0x7c00;
    } else if (bits < 0x38800000) { // below 2^-14: adding 1/2 leaves the rounded subnormal low
      half = Float.floatToRawIntBits(Float.intBitsToFloat(bits) + 0.5f) - 0x3f000000;
    } else {
      half = (bits - 0x38000000 + 0xfff + (bits >>> 13 & 1)) >>> 13;
    }
    return (short) (sign | half);
  }

  @Override
  public String toString() {
    return safetensors.toLowerCase(java.util.Locale.ROOT);
  }
}
