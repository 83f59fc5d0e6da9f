# SEQEXPORT_VERSION of the sources, or of the wheel that they came in.
set(SEQEXPORT_VERSION source)
set(root "${CMAKE_CURRENT_SOURCE_DIR}/../..")
file(GLOB metadata "${root}/pyproject.toml" "${root}/../seqexport-*.dist-info/METADATA")
foreach(file IN LISTS metadata)
  file(STRINGS "${file}" line REGEX "^([Vv]ersion: |version = )" LIMIT_COUNT 1)
  string(REGEX MATCH "[0-9][0-9a-z.+]*" SEQEXPORT_VERSION "${line}")
endforeach()
