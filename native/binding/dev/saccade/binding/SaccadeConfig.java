package dev.saccade.binding;

import org.bytedeco.javacpp.annotation.Platform;
import org.bytedeco.javacpp.annotation.Properties;
import org.bytedeco.javacpp.tools.Info;
import org.bytedeco.javacpp.tools.InfoMap;
import org.bytedeco.javacpp.tools.InfoMapper;

/**
 * Tells JavaCPP how to turn {@code saccade.h} into the generated classes of this package: one class
 * per args struct, and {@code Saccade} with the functions and constants. The names are those of the
 * header.
 */
@Properties(
    value = @Platform(include = "saccade.h", link = "saccade"),
    target = "dev.saccade.binding",
    global = "dev.saccade.binding.Saccade")
public class SaccadeConfig implements InfoMapper {
  @Override
  public void map(InfoMap infoMap) {
    infoMap
        .put(new Info("SACCADE_API").cppTypes().annotations())
        .put(new Info("defined(__GNUC__)").define(false))
        .put(new Info("SACCADE_H").define(false))
        // The provider of matrix products crosses as an address, never as a Java callback.
        .put(new Info("saccade_cblas_sgemm").skip());
  }
}
